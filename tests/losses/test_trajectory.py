"""Smoothness of trajectories against SciPy, and that jitter costs far more than articulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax.test_util import check_grads

from jaxavatar.losses import fast_share, jumps, spectral_distance
from jaxavatar.losses.trajectory import power_spectrum

FPS = 25.0


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sway(frequency, count=75):
    """Two points that swing by one unit (root mean square 0.71)."""
    phase = 2 * np.pi * frequency * np.arange(count) / FPS
    return np.stack([np.sin(phase), np.cos(phase)], -1)[:, :, None] * [1.0, 0.0]


def test_jumps_are_second_differences(rng):
    points, weights = rng.normal(size=(9, 3, 2)), rng.random((9, 3))
    second = np.linalg.norm(np.diff(points, 2, axis=0), axis=-1)
    assert float(jumps(jnp.array(points))) == pytest.approx((second**2).mean())
    least = np.minimum(np.minimum(weights[:-2], weights[1:-1]), weights[2:])
    expected = (least * np.maximum(second - 1.5, 0) ** 2).sum() / least.sum()
    assert float(jumps(jnp.array(points), jnp.array(weights), 1.5)) == pytest.approx(expected)
    assert float(jumps(jnp.zeros((5, 2, 3)))) < 1e-20


def test_jitter_costs_far_more_than_articulation_of_the_same_size(rng):
    slow = jnp.array(sway(3.0))
    jitter = jnp.array(rng.normal(0, np.std(sway(3.0)[..., 0]), slow.shape) * [1.0, 0.0])
    assert float(jumps(jitter)) > 15 * float(jumps(slow))
    free = 4 * np.sin(np.pi * 3.0 / FPS) ** 2 + 1e-6
    assert float(jumps(slow, free=free)) == 0.0
    assert float(jumps(jitter, free=free)) > 1.0
    assert float(fast_share(slow, 7.0, FPS)) < 0.01
    assert float(fast_share(jitter, 7.0, FPS)) > 0.7
    assert float(fast_share(jnp.zeros((20, 2, 2)), 7.0, FPS)) == 0.0
    drift = jnp.linspace(0, 100, 40)[:, None, None] * jnp.ones((1, 1, 2))
    assert float(fast_share(drift, 7.0, FPS)) < 0.01


@pytest.mark.parametrize("count", [20, 21])
def test_power_is_that_of_a_periodogram(count, rng):
    points = rng.normal(size=(count, 3, 2))
    window = np.hanning(count + 1)[1:-1]
    frequency, density = scipy.signal.periodogram(
        np.diff(points, axis=0),
        FPS,
        window,  # pyright: ignore[reportArgumentType]
        detrend=False,  # pyright: ignore[reportArgumentType]
        axis=0,
    )
    actual = power_spectrum(jnp.array(points), FPS)
    np.testing.assert_allclose(actual[0], frequency)
    # A density's sum times the frequencies' distance is the power.
    np.testing.assert_allclose(actual[1], density * FPS / (count - 1), rtol=1e-10)


def test_spectra_are_compared_whatever_the_phase(rng):
    slow, shifted, fast = sway(3.0), sway(3.0)[:, ::-1], sway(6.0)
    same = float(spectral_distance(jnp.array(slow), jnp.array(shifted), FPS))
    other = float(spectral_distance(jnp.array(slow), jnp.array(fast), FPS))
    assert float(spectral_distance(jnp.array(slow), jnp.array(slow), FPS)) == 0.0
    assert same < 0.05 * other
    points, targets = rng.normal(size=(2, 12, 3, 2))
    powers = [power_spectrum(jnp.array(x), FPS)[1].sum(-1) + 2e-4 / 6 for x in (points, targets)]
    expected = np.mean((np.log(powers[0]) - np.log(powers[1])) ** 2)
    actual = spectral_distance(jnp.array(points), jnp.array(targets), FPS)
    assert float(actual) == pytest.approx(expected)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: jumps(x),
        lambda x, y: jumps(x - y, jnp.ones(x.shape[:2]), 0.7),
        lambda x, y: fast_share(x, 7.0, FPS),
        lambda x, y: spectral_distance(x, y, FPS),
    ],
    ids=["jumps", "free-jumps", "share", "spectra"],
)
def test_gradients(loss, rng):
    points, targets = jnp.array(rng.normal(size=(2, 10, 3, 2)))
    check_grads(lambda x: loss(x, targets), (points,), order=1, modes=("rev",), rtol=1e-6)
    at_rest = jax.grad(lambda x: loss(x, jnp.zeros_like(x)))(jnp.zeros_like(points))
    assert np.isfinite(at_rest).all()
