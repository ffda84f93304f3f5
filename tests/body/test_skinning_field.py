"""Skinning fields against SciPy's interpolation, and PERSONA's recorded outputs where they are."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.interpolate import RegularGridInterpolator

from jaxavatar.body.skinning_field import field_weights, sample_field

ROOT = pathlib.Path(__file__).parents[2]
PARITY = pathlib.Path(os.environ.get("JAXAVATAR_PARITY", ROOT / "../shared/data/parity"))
LOW, HIGH = np.array([-1.0, -0.5, 0.2]), np.array([0.5, 1.0, 0.9])


def made(rng, joints=7):
    """Return a field of random weights and the positions of its grid points along each axis."""
    field = rng.dirichlet(np.ones(joints), size=(4, 5, 6))
    return field, [np.linspace(a, b, n) for a, b, n in zip(LOW, HIGH, (4, 5, 6), strict=True)]


def padded(field, axes):
    """Interpolate with one more layer of zeros around the grid: zero padding."""
    wider = [np.concatenate([[2 * a[0] - a[1]], a, [2 * a[-1] - a[-2]]]) for a in axes]
    return RegularGridInterpolator(
        wider, np.pad(field, [(1, 1)] * 3 + [(0, 0)]), bounds_error=False, fill_value=0.0
    )


def test_sampling_is_trilinear_and_zero_outside():
    rng = np.random.default_rng(0)
    field, axes = made(rng)
    points = rng.uniform(LOW - 0.4, HIGH + 0.4, (300, 3))
    points[0], points[1] = LOW, HIGH
    expected = padded(field, axes)(points)
    actual = jax.jit(sample_field)(*map(jnp.float32, (field, LOW, HIGH, points)))
    np.testing.assert_allclose(actual, expected, atol=5e-6)
    np.testing.assert_allclose(actual[0], field[0, 0, 0], atol=1e-6)
    assert (expected.sum(1) == 0).any() and (expected.sum(1) > 0.99).any()


def test_thirteen_taps():
    rng = np.random.default_rng(1)
    field, axes = made(rng)
    points = rng.uniform(LOW, HIGH, (40, 3))
    points[:3] = 9.0  # outside, with all taps
    scales = rng.uniform(0.01, 0.2, (40, 3))
    template = rng.dirichlet(np.ones(7), size=40)
    keep = rng.random(40) < 0.3
    read = padded(field, axes)
    total = read(points)
    for axis in range(3):
        for distance, share in ((1, 0.5), (2, 0.3)):
            for sign in (-1, 1):
                moved = points.copy()
                moved[:, axis] += sign * distance * scales[:, axis]
                total = total + share * read(moved)
    expected = template.copy()
    used = ~keep & (total.sum(1) > 0)
    expected[used] = total[used] / total[used].sum(1, keepdims=True)
    arrays = map(jnp.float32, (field, LOW, HIGH, points, scales, template))
    actual = jax.jit(field_weights)(*arrays, jnp.asarray(keep))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_allclose(actual.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(actual[:3], template[:3], atol=1e-7)


def test_gradients():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        field, _ = made(rng)
        points, scales = rng.uniform(LOW, HIGH, (6, 3)), rng.uniform(0.01, 0.1, (6, 3))
        template, keep = jnp.asarray(rng.dirichlet(np.ones(7), size=6)), jnp.arange(6) < 2
        low, high = jnp.asarray(LOW), jnp.asarray(HIGH)

        def loss(field, points, scales):
            weights = field_weights(field, low, high, points, scales, template, keep)
            return jnp.sum(jnp.sin(3 * weights))

        arguments = tuple(map(jnp.asarray, (field, points, scales)))
        check_grads(jax.jit(loss), arguments, order=1, modes=("rev",), rtol=1e-5)


def test_recorded_weights_of_persona():
    path = PARITY / "persona_skinning_weight.npz"
    if not path.is_file():
        pytest.skip("the reference outputs are not here")
    with np.load(path) as data:
        stored = dict(data)
    grid = stored["w/grid_xyz"]
    actual = jax.jit(field_weights)(
        *map(
            jnp.asarray,
            (
                stored["w/field"],
                grid[0],
                grid[-1],
                stored["in/mean_3d"],
                stored["in/scale"],
                stored["w/skinning_weight_orig"],
                stored["w/is_hand"] | stored["w/is_face"],
            ),
        )
    )
    np.testing.assert_allclose(actual, stored["out/weights"], rtol=1e-4, atol=2e-5)
