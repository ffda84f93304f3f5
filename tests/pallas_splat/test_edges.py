"""Tiny and degenerate scenes on every backend; those of one pixel share a shape."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Camera, Gaussians, estimate_capacity, render, workloads
from pallas_splat.config import Config

N = 5
COLOR = (1.0, 0.5, 0.25)


def stack(opacities, z=(2.0, 3.0, 4.0, 5.0, 6.0), scale=0.1):
    """Gaussians behind each other on the axis of the camera."""
    opacities = np.asarray(opacities, np.float32)
    return Gaussians(
        means=jnp.zeros((N, 3)).at[:, 2].set(jnp.array(z)),
        quats=jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (N, 1)),
        scales=jnp.full((N, 3), scale),
        opacities=jnp.pad(jnp.asarray(opacities), (0, N - len(opacities))),
        colors=jnp.tile(jnp.array(COLOR), (N, 1)),
    )


def pinhole(width, height, focal=20.0):
    K = jnp.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(jnp.eye(4), K, width, height)


def draw_pixel(contract, backend, gaussians):
    with contract.running(backend):
        rendered = render(
            gaussians, pinhole(1, 1), background=jnp.zeros(3), median_depth=True, backend=backend
        )
        return jax.device_get(rendered)


def test_one_gaussian_in_one_pixel(backend, contract):
    rendered = draw_pixel(contract, backend, stack([0.8]))
    np.testing.assert_allclose(rendered.alpha, [[0.8]], rtol=1e-6)
    np.testing.assert_allclose(rendered.image, [[0.8 * np.array(COLOR)]], rtol=1e-6)
    np.testing.assert_allclose(rendered.depth, [[2.0]], rtol=1e-6)
    np.testing.assert_array_equal(rendered.median_depth, [[2.0]])
    assert rendered.features is None and rendered.normals is None
    # A standard deviation of 1 pixel, and alpha 1/255 at 3.26 of them with the low-pass.
    reach = np.sqrt(1.3 * 2 * np.log(0.8 * 255))
    np.testing.assert_allclose(rendered.radii, [[reach, reach]] + [[0, 0]] * 4, atol=0.02)


def test_median_is_where_the_transmittance_falls_to_one_half(backend, contract):
    rendered = draw_pixel(contract, backend, stack([0.3, 0.2, 0.2, 0.9, 0.9]))
    np.testing.assert_array_equal(rendered.median_depth, [[4.0]])  # 0.7, 0.56, 0.448
    faint = draw_pixel(contract, backend, stack([0.3, 0.2]))
    np.testing.assert_array_equal(faint.median_depth, [[0.0]])
    assert faint.alpha > 0.4


def test_a_pixel_ends_before_the_gaussian_that_exhausts_it(backend, contract):
    """T falls to 0.001, the fourth would leave too little, and the fifth is behind that end."""
    scene = stack([0.9, 0.9, 0.9, 0.95, 0.5])

    def alpha(opacities):
        gaussians = dataclasses.replace(scene, opacities=opacities)
        return render(gaussians, pinhole(1, 1), backend=backend).alpha[0, 0]

    with contract.running(backend):
        value, gradient = jax.value_and_grad(alpha)(scene.opacities)
    np.testing.assert_allclose(value, 0.999, rtol=1e-6)
    np.testing.assert_allclose(gradient[:3], 0.01, rtol=1e-3)
    np.testing.assert_array_equal(gradient[3:], 0)


def test_nothing_to_see(backend, contract):
    behind = stack([0.8] * N, z=(-2.0, -3.0, 0.0, 0.01, -1e6))
    for gaussians in (behind, stack([0.0] * N), stack([0.0039] * N)):
        rendered = draw_pixel(contract, backend, gaussians)
        for output in (rendered.alpha, rendered.depth, rendered.median_depth, rendered.image):
            assert not output.any()
        assert not rendered.radii.any()


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
def test_points_and_worlds(backend, contract, scale):
    """Without any extent a Gaussian is the low-pass alone; with a huge one it is everywhere."""
    rendered = draw_pixel(contract, backend, stack([0.8], scale=scale))
    np.testing.assert_allclose(rendered.alpha, [[0.8]], rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(rendered))


def test_no_gaussians(backend, contract):
    empty = jax.tree.map(lambda a: a[:0], stack([]))
    background = jnp.arange(12.0).reshape(2, 2, 3)

    def draw(background):
        return render(
            empty, pinhole(2, 2), features=jnp.zeros((0, 3)), background=background,
            median_depth=True, normals=True, backend=backend,
        )  # fmt: skip

    with contract.running(backend):
        rendered, pullback = jax.vjp(lambda b: draw(b).image, background)
        outputs = draw(background)
    np.testing.assert_array_equal(rendered, background)
    np.testing.assert_array_equal(pullback(jnp.ones_like(rendered))[0], 1)
    assert outputs.features is not None and outputs.features.shape == (2, 2, 3)
    assert outputs.normals is not None and outputs.normals.shape == (2, 2, 3)
    assert outputs.median_depth is not None and outputs.median_depth.shape == (2, 2)
    assert outputs.radii.shape == (0, 2)


def test_thousands_on_one_pixel(backend, contract):
    """Their order is that of depth, equal depths by index; alpha is a product of thousands."""
    n = 4000
    rng = np.random.default_rng(0)
    z = 2 + 0.01 * (np.arange(n) // 1000)
    arrays: dict[str, Any] = {
        "means": np.stack([0 * z, 0 * z, z], axis=1),
        "quats": np.tile([1.0, 0.0, 0.0, 0.0], (n, 1)),
        "scales": np.full((n, 3), 1e-3),
        "opacities": np.full(n, 0.005),
        "colors": rng.uniform(size=(n, 3)),
    }
    scene = workloads.cast((Gaussians(**arrays), pinhole(3, 3)), jnp.float32)
    with contract.running(backend):
        rendered = render(*scene, backend=backend, config=Config(capacity=16384))
    # All centres are that of the middle pixel, so each has its opacity there.
    weights = 0.005 * 0.995 ** np.arange(n)
    weights = np.where(0.995 ** np.arange(1, n + 1) > 1e-4, weights, 0)
    np.testing.assert_allclose(rendered.image[1, 1], weights @ arrays["colors"], rtol=2e-5)
    np.testing.assert_allclose(rendered.alpha[1, 1], weights.sum(), rtol=2e-5)
    assert np.count_nonzero(weights) > 1800


def test_estimated_capacity_is_enough(contract):
    inputs = workloads.cast(contract.make_inputs("clustered"), jnp.float32)
    gaussians, camera = inputs["gaussians"], inputs["camera"]
    capacity = estimate_capacity(gaussians, camera, margin=1.0)
    info = render(gaussians, camera, backend="xla", config=Config(capacity=capacity)).info
    assert not info.overflow
    assert info.capacity == capacity
    assert capacity - 1024 < info.intersections <= capacity
