"""The front door: validation, choice of backend, capacity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Config, available, estimate_capacity, render, workloads

N, SIZE = 40, 32


@pytest.fixture(scope="module")
def scene():
    return workloads.cast(workloads.clustered(N, SIZE), jnp.float32)


def test_overflow_grows_the_list_outside_of_jit(scene):
    small = render(*scene, backend="xla", config=Config(capacity=8))
    needed = int(small.info.intersections)
    assert needed > 8
    assert small.info.capacity == 2 ** int(np.ceil(np.log2(needed)))
    large = render(*scene, backend="xla", config=Config(capacity=int(small.info.capacity)))
    assert not small.info.overflow
    np.testing.assert_array_equal(small.image, large.image)


def test_overflow_poisons_everything_inside_jit(scene):
    gaussians, camera = scene

    def loss(gaussians):
        rendered = render(gaussians, camera, backend="xla", config=Config(capacity=8))
        return jnp.sum(rendered.image), rendered

    gradients, rendered = jax.jit(jax.grad(loss, has_aux=True))(gaussians)
    assert rendered.info.overflow and rendered.info.intersections > 8
    for output in (rendered.image, rendered.alpha, rendered.depth):
        assert jnp.isnan(output).all()
    for gradient in (gradients.means, gradients.opacities, gradients.colors):
        assert jnp.isnan(gradient).all()


def test_counts_beyond_int32_are_refused():
    huge, camera = workloads.cast(workloads.clustered(200_000, 1024), jnp.float32)
    huge = dataclasses.replace(
        huge, scales=huge.scales * 1e3, opacities=jnp.ones_like(huge.opacities)
    )
    with pytest.raises(ValueError, match="intersections"):
        estimate_capacity(huge, camera)


def test_rejects_bad_arguments(scene):
    gaussians, camera = scene
    bad_quats = dataclasses.replace(gaussians, quats=gaussians.quats[:, :3])
    with pytest.raises(ValueError, match=r"gaussians\.quats must have shape \(40, 4\)"):
        render(bad_quats, camera)
    bad_opacities = dataclasses.replace(gaussians, opacities=gaussians.opacities[:7])
    with pytest.raises(ValueError, match=r"gaussians\.opacities must have shape \(40,\)"):
        render(bad_opacities, camera)
    bad_type = dataclasses.replace(gaussians, colors=jnp.zeros((N, 3), jnp.int32))
    with pytest.raises(ValueError, match="floating type, got int32"):
        render(bad_type, camera)
    with pytest.raises(ValueError, match=r"camera\.width must be >= 1 pixel, got 0"):
        render(gaussians, dataclasses.replace(camera, width=0))
    with pytest.raises(ValueError, match=r"camera\.near must be > 0, got 0"):
        render(gaussians, dataclasses.replace(camera, near=0.0))
    with pytest.raises(ValueError, match=r"features must have shape \(40, 2\), got \(39, 2\)"):
        render(gaussians, camera, features=jnp.zeros((39, 2)))
    with pytest.raises(ValueError, match=r"background must have shape \(24, 32, 3\)"):
        render(gaussians, camera, background=jnp.zeros((32, 24, 3)))
    with pytest.raises(ValueError, match=r"backend must be one of .*, got 'cuda'"):
        render(gaussians, camera, backend="cuda")
    with pytest.raises(ValueError, match="margin must be >= 1, got 0"):
        estimate_capacity(gaussians, camera, margin=0)
    with pytest.raises(ValueError, match="low_pass must be > 0"):
        Config(low_pass=0.0)
    with pytest.raises(ValueError, match="capacity must be >= 1, got 0"):
        Config(capacity=0)


@pytest.mark.parametrize("backend", ["xla", "native"])
def test_gradient_of_what_mapped_cameras_share_is_the_sum_over_cameras(scene, backend):
    if not available(backend):
        pytest.skip(f"backend {backend} does not run on this machine")
    gaussians, camera = scene
    views = jnp.stack([camera.viewmat, camera.viewmat.at[0, 3].add(0.3)])

    def loss(gaussians, viewmat):
        view = dataclasses.replace(camera, viewmat=viewmat)
        return jnp.sum(jnp.sin(render(gaussians, view, backend=backend).image))

    together = jax.grad(lambda g: jnp.sum(jax.vmap(loss, (None, 0))(g, views)))(gaussians)
    apart = [jax.grad(loss)(gaussians, view) for view in views]
    for got, *parts in zip(*map(jax.tree.leaves, (together, *apart)), strict=True):
        np.testing.assert_allclose(got, sum(parts), rtol=1e-4, atol=1e-5 * np.abs(sum(parts)).max())
