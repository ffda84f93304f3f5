"""Relocation, growth and noise within a fixed budget."""

import dataclasses
import decimal
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.spatial.transform
import scipy.stats
from pallas_splat import render, workloads
from pallas_splat.densify import MIN_OPACITY, divide, grow, perturb, relocate, reset_rows

N, SIZE = 240, 64
jit_relocate, jit_grow = jax.jit(relocate), jax.jit(grow)


@pytest.fixture(scope="module")
def scene():
    """Every fourth Gaussian is dead, every twelfth unused."""
    gaussians, camera = workloads.cast(workloads.clustered(N, SIZE), jnp.float32)
    opacities = gaussians.opacities.at[::4].set(MIN_OPACITY).at[::12].set(0)
    return dataclasses.replace(gaussians, opacities=opacities), camera


def double_sum(opacity: float, copies: int) -> float:
    """Evaluate the sum of the paper's equation 9 as printed, with 60 digits."""
    with decimal.localcontext(prec=60):
        o = decimal.Decimal(opacity)
        terms = (
            math.comb(i - 1, j) * (-1) ** j * o ** (j + 1) / decimal.Decimal(j + 1).sqrt()
            for i in range(1, copies + 1)
            for j in range(i)
        )
        return float(sum(terms))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-6)])
def test_division_is_the_papers_double_sum(dtype, tolerance):
    copies = np.array([1, 2, 3, 7, 20, 51, 130])
    opacities = np.array([0.006, 0.1, 0.5, 0.9, 0.999, 1 - 2.0**-20])
    o, k = (a.ravel() for a in np.meshgrid(opacities.astype(dtype).astype(float), copies))
    expected = -np.expm1(np.log1p(-o) / k)
    sums = [double_sum(*pair) for pair in zip(expected, k.tolist(), strict=True)]
    with jax.enable_x64(dtype == "float64"):
        divided, factors = divide(jnp.asarray(o, dtype), jnp.asarray(k))
    assert divided.dtype == factors.dtype == dtype
    np.testing.assert_allclose(divided, expected, rtol=tolerance)
    np.testing.assert_allclose(factors, o / np.array(sums), rtol=tolerance)


def test_opaque_gaussians_divide():
    """Opacity 1 has no finite logarithm; a copy of it is finite and still hides nearly all."""
    divided, factors = divide(jnp.ones(1), jnp.full(1, 3))
    assert (1 - divided[0]) ** 3 < 1e-6 and 0 < factors[0] < 1


def test_division_held_at_the_threshold_hides_as_much_along_a_line():
    """SciPy's integral over the copies' line of what they hide, against the original's."""
    for opacity, copies in ((0.006, 2), (0.01, 40), (0.3, 5)):
        divided, factors = divide(jnp.array([opacity]), jnp.array([copies]), MIN_OPACITY)
        o, s = float(divided[0]), float(factors[0])
        assert o >= np.float32(MIN_OPACITY)
        hidden = scipy.integrate.quad(
            lambda x, o=o, s=s, k=copies: 1 - (1 - o * np.exp(-((x / s) ** 2))) ** k, -9 * s, 9 * s
        )[0]
        assert hidden == pytest.approx(opacity * math.sqrt(math.pi), rel=2e-6)


def test_dead_move_and_the_rest_stays(scene):
    gaussians, _ = scene
    result = jit_relocate(jax.random.key(0), gaussians)
    opacities, sources = np.array(gaussians.opacities), np.array(result.sources)
    dead = (opacities > 0) & (opacities <= np.float32(MIN_OPACITY))
    np.testing.assert_array_equal(result.moved, dead)
    assert dead.sum() == N // 4 - N // 12
    assert (opacities[sources[dead]] > MIN_OPACITY).all()
    np.testing.assert_array_equal(sources[~dead], np.arange(N)[~dead])

    copies = np.bincount(sources, minlength=N)
    assert copies.max() > 2, "the draw should contain a source with several copies"
    np.testing.assert_array_equal(result.changed, copies[sources] > 1)
    # Any array of Gaussians moves by the same indices; shapes only change where they should.
    for name in ("means", "quats", "colors", "linear"):
        expected = np.array(getattr(gaussians, name))[sources]
        np.testing.assert_array_equal(getattr(result.gaussians, name), expected)
    kept = ~np.array(result.changed)
    np.testing.assert_array_equal(result.gaussians.scales[kept], gaussians.scales[kept])
    np.testing.assert_array_equal(result.gaussians.opacities[kept], opacities[kept])
    assert (result.gaussians.opacities == 0).sum() == N // 12, "unused ones stay unused"
    assert ((result.gaussians.opacities > 0) <= (result.gaussians.opacities >= MIN_OPACITY)).all()
    # Copies of one source are equal, and together as opaque as it was.
    shapes = (result.gaussians.opacities, result.gaussians.scales)
    for array in shapes:
        np.testing.assert_array_equal(array, array[sources])
    together = 1 - (1 - np.array(shapes[0], float)) ** copies[sources]
    loose = shapes[0] > np.float32(MIN_OPACITY)
    np.testing.assert_allclose(together[loose], opacities[sources][loose], rtol=1e-5)


def test_relocation_keeps_the_image(scene):
    """Measured: 50 dB; copying without equation 9: 33 dB."""
    gaussians, camera = scene
    view = functools.partial(render, camera=camera, backend="reference")
    before = view(gaussians).image
    result = jit_relocate(jax.random.key(1), gaussians)
    copied = jax.tree.map(lambda rows: rows[result.sources], gaussians)

    def psnr(gaussians):
        return -10 * np.log10(np.mean((view(gaussians).image - before) ** 2))

    assert psnr(result.gaussians) > 46
    assert psnr(copied) < psnr(result.gaussians) - 10


def test_draws_are_proportional_to_opacity(scene):
    """Chi-square over 300 draws of 60; one draw has 180 candidates."""
    gaussians, _ = scene
    opacities = gaussians.opacities.at[::12].set(MIN_OPACITY)
    gaussians = dataclasses.replace(gaussians, opacities=opacities)

    def draw(key):
        result = relocate(key, gaussians)
        return jnp.zeros(N, jnp.int32).at[result.sources].add(result.moved)

    counts = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(2), 300)).sum(axis=0)
    live = np.array(opacities) > MIN_OPACITY
    assert counts.sum() == 300 * N // 4 and (counts[~live] == 0).all()
    weights = np.array(opacities, float)[live]
    expected = counts.sum() * weights / weights.sum()
    assert expected.min() > 5
    assert scipy.stats.chisquare(counts[live], expected).pvalue > 1e-3


def test_growth_is_a_share_and_ends_with_the_budget(scene):
    gaussians, camera = scene
    opacities = jnp.where(jnp.arange(N) < N // 2, 0, gaussians.opacities.at[::4].set(0.5))
    gaussians = dataclasses.replace(gaussians, opacities=opacities)
    before = render(gaussians, camera, backend="reference").image
    used = [N // 2]
    first = jit_grow(jax.random.key(3), gaussians)
    np.testing.assert_array_equal(np.flatnonzero(first.moved), np.arange(N // 40))
    for step in range(30):
        gaussians = jit_grow(jax.random.key(step), gaussians).gaussians
        used.append(int(jnp.sum(gaussians.opacities > 0)))
        assert used[-1] == min(N, int(used[-2] * 1.05))
    assert used[-1] == N == gaussians.means.shape[0]
    after = render(gaussians, camera, backend="reference").image
    assert -10 * np.log10(np.mean((after - before) ** 2)) > 40
    assert not jit_grow(jax.random.key(4), gaussians).changed.any()


def test_small_scenes_grow_too():
    gaussians, _ = workloads.cast(workloads.clustered(4, 32), jnp.float32)
    opacities = jnp.array([0.5, 0.0, 0.0, 0.0])
    result = jit_grow(jax.random.key(0), dataclasses.replace(gaussians, opacities=opacities))
    np.testing.assert_array_equal(result.moved, [False, True, False, False])
    np.testing.assert_array_equal(result.sources, [0, 0, 2, 3])


@pytest.mark.parametrize("opacity", [0.0, 0.004])
def test_nothing_moves_where_nothing_lives(scene, opacity):
    gaussians = dataclasses.replace(scene[0], opacities=jnp.full(N, opacity))
    for move in (jit_relocate, jit_grow):
        result = move(jax.random.key(0), gaussians)
        assert not result.moved.any() and not result.changed.any()
        jax.tree.map(np.testing.assert_array_equal, result.gaussians, gaussians)


def test_harmonics_and_missing_maps_move(scene):
    gaussians, _ = scene
    colors = jnp.arange(N * 12.0).reshape(N, 4, 3)
    other = dataclasses.replace(gaussians, colors=colors, linear=None)
    result = jit_relocate(jax.random.key(0), other)
    np.testing.assert_array_equal(result.gaussians.colors, colors[result.sources])
    assert result.gaussians.linear is None


def test_one_compilation_serves_all_states(scene):
    gaussians, _ = scene
    traces = []

    @jax.jit
    def both(key, gaussians, strength):
        traces.append(key)
        moved = grow(key, relocate(key, gaussians).gaussians).gaussians
        return perturb(key, moved, strength)

    for step in range(4):
        gaussians = both(jax.random.key(step), gaussians, 0.1 * step)
    assert len(traces) == 1


def test_noise_has_the_gaussians_shape():
    """Covariance of 40,000 displacements against strength^2 gate^2 Sigma^2 in NumPy."""
    n, strength, opacity = 40_000, 3.0, 0.01
    rng = np.random.default_rng(0)
    quat, linear = rng.standard_normal(4), np.eye(3) + 0.3 * rng.standard_normal((3, 3))
    scales = np.array([0.3, 0.1, 0.05])
    one = workloads.cast(workloads.clustered(1, 32)[0], jnp.float32)
    gaussians = jax.tree.map(lambda row: jnp.repeat(row, n, axis=0), one)
    gaussians = dataclasses.replace(
        gaussians,
        quats=jnp.tile(jnp.float32(quat), (n, 1)),
        scales=jnp.tile(jnp.float32(scales), (n, 1)),
        opacities=jnp.full(n, opacity),
        linear=jnp.tile(jnp.float32(linear), (n, 1, 1)),
    )
    moved = perturb(jax.random.key(0), gaussians, strength)
    shifts = np.array(moved.means - gaussians.means, float)
    rotation = scipy.spatial.transform.Rotation.from_quat(quat[[1, 2, 3, 0]]).as_matrix()
    factor = linear @ rotation @ np.diag(scales)
    sigma = factor @ factor.T
    expected = (strength / (1 + np.exp(100 * (opacity - 0.005)))) ** 2 * sigma @ sigma
    error = np.cov(shifts.T) - expected
    assert np.abs(error).max() < 0.03 * np.abs(expected).max()  # 4 sigma: 4 sqrt(2 / n)
    assert np.abs(shifts.mean(axis=0)).max() < 4 * np.sqrt(np.abs(expected).max() / n)

    for name in ("quats", "scales", "opacities", "colors", "linear"):
        assert getattr(moved, name) is getattr(gaussians, name)
    opaque = dataclasses.replace(gaussians, opacities=jnp.full(n, 0.5))
    still = perturb(jax.random.key(0), opaque, strength).means - gaussians.means
    assert jnp.abs(still).max() < 1e-6 * np.abs(shifts).max()


@pytest.mark.parametrize("partitioned", [False, True])
def test_moments_of_changed_rows_start_again(scene, partitioned):
    gaussians, _ = scene
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    labels = dataclasses.replace(
        jax.tree.map(lambda _: "slow", gaussians), means="fast", linear="frozen"
    )
    optimiser = adam
    if partitioned:
        rules = {"fast": adam, "slow": optax.sgd(1e-3, momentum=0.9), "frozen": optax.set_to_zero()}
        optimiser = optax.multi_transform(rules, labels)  # pyright: ignore[reportArgumentType]
    initial = optimiser.init(gaussians)
    _, state = optimiser.update(jax.tree.map(jnp.ones_like, gaussians), initial, gaussians)
    rows = jnp.arange(N) % 3 == 0
    reset = jax.jit(reset_rows)(state, initial, rows)
    assert jax.tree.structure(reset) == jax.tree.structure(state)

    per_gaussian = 0
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(reset), strict=True):
        if old.ndim == 0:
            assert old == new == 1, "the step count goes on"
            continue
        per_gaussian += 1
        assert (old != 0).all() and (new[rows] == 0).all()
        np.testing.assert_array_equal(new[~rows], old[~rows])
    assert per_gaussian == (2 + 4 if partitioned else 2 * 6)


def test_reset_restores_what_is_not_zero_in_the_beginning(scene):
    """A state that starts elsewhere, such as adagrad's sum, goes back there and not to zero."""
    means = scene[0].means
    optimiser = optax.adagrad(0.1, initial_accumulator_value=0.3)
    initial = optimiser.init(means)
    _, state = optimiser.update(jnp.ones_like(means), initial, means)
    reset = reset_rows(state, initial, jnp.arange(N) < 5)
    (sums,) = (leaf for leaf in jax.tree.leaves(reset) if leaf.ndim)
    np.testing.assert_allclose(sums[:5], 0.3)
    np.testing.assert_allclose(sums[5:], 1.3)
