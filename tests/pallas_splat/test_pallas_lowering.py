"""Backend "pallas" lowered for an NVIDIA GPU, on machines without one.

An operation that Triton's lowering does not support fails here.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pallas_splat.pallas as pallas_backend
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec, use_abstract_mesh
from pallas_splat import Camera, Config, Gaussians, available, default_backend, render, workloads

N, SIZE = 50, 40
ON_CPU = jax.default_backend() == "cpu"


def kernels(function, *arguments):
    """Count the Triton kernels of a function lowered for CUDA."""
    # jax 0.12 asks for the device when lowering.
    gpu = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    mesh = AbstractMesh((1,), ("device",), (AxisType.Explicit,), abstract_device=gpu)
    with use_abstract_mesh(mesh):
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert "mosaic" not in text
    return text.count("__gpu$xla.gpu.triton")


LISTS = 4  # kernels that make the lists


def arguments():
    return workloads.cast(workloads.avatar(N, SIZE), jnp.float32)


def image(gaussians: Gaussians, camera: Camera, **options):
    config = Config(capacity=1024)
    return render(gaussians, camera, backend="pallas", config=config, **options).image


def loss(gaussians: Gaussians, camera: Camera):
    return jnp.sum(image(gaussians, camera) ** 2)


def test_value():
    assert kernels(image, *arguments()) == LISTS + 1


def test_median_depth_normals_and_wide_features():
    gaussians, camera = arguments()

    def depth(gaussians, features):
        options = {"features": features, "median_depth": True, "normals": True}
        return render(gaussians, camera, backend="pallas", **options)

    assert kernels(depth, gaussians, jnp.zeros((N, 33))) == 2 * LISTS + 2


def test_gradient_over_cameras_and_scenes():
    """Value, one row per list entry, sums of the rows; batches add no kernels."""
    gaussians, camera = arguments()
    viewmats = jnp.stack([camera.viewmat] * 2)
    scenes = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), gaussians)

    def gradient(gaussians, viewmat):
        return jax.grad(loss)(gaussians, dataclasses.replace(camera, viewmat=viewmat))

    over_cameras = jax.vmap(gradient, (None, 0))
    assert kernels(gradient, gaussians, camera.viewmat) == LISTS + 3
    assert kernels(jax.vmap(over_cameras, (0, None)), scenes, viewmats) == LISTS + 3


def test_tangent():
    gaussians, camera = arguments()

    def tangent(gaussians, direction):
        return jax.jvp(lambda gaussians: image(gaussians, camera), (gaussians,), (direction,))

    assert kernels(tangent, gaussians, gaussians) == LISTS + 2


def test_shards():
    gaussians, camera = arguments()

    def gradients(viewmats, gaussians):
        def total(viewmats, gaussians):
            def one(viewmat):
                return loss(gaussians, dataclasses.replace(camera, viewmat=viewmat))

            return jax.lax.psum(jnp.sum(jax.vmap(one)(viewmats)), "device")

        sharded = jax.shard_map(total, out_specs=PartitionSpec())
        viewmats = jax.reshard(viewmats, PartitionSpec("device"))
        return jax.grad(sharded, 1)(viewmats, gaussians)

    assert kernels(gradients, camera.viewmat[None], gaussians) == LISTS + 3


@pytest.mark.skipif(not ON_CPU, reason="says what happens on a CPU")
def test_refuses_to_run_on_a_cpu():
    assert not available("pallas")
    assert default_backend() != "pallas"
    with pytest.raises(NotImplementedError, match="runs on NVIDIA GPUs"):
        image(*arguments())
    with pallas_backend.interpreted():
        assert available("pallas")
        assert jnp.isfinite(image(*arguments())).all()
    with pytest.raises(NotImplementedError, match="runs on NVIDIA GPUs"):
        image(*arguments())
