"""Rendering on several devices gives what one device gives.

Several devices need a process that was started with them: this file is also the program that the
test runs, `python test_render_sharded.py BACKEND`.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from pallas_splat import Config, available, render, workloads
from pallas_splat.sharding import render_sharded

N, WIDTH, VIEWS = 60, 32, 4
CONFIG = Config(capacity=1024)


def make_scene(height):
    """Gaussians and what belongs to them, four cameras, and a background per pixel."""
    gaussians, camera = workloads.cast(workloads.clustered(N, WIDTH), jnp.float32)
    rng = np.random.default_rng(0)
    viewmats = jnp.stack([camera.viewmat.at[0, 3].add(0.1 * i) for i in range(VIEWS)])
    cameras = dataclasses.replace(
        camera, viewmat=viewmats, K=jnp.stack([camera.K] * VIEWS), height=height
    )
    features, offsets, background = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((N, 2), (VIEWS, N, 2), (height, WIDTH, 3))
    )
    return gaussians, cameras, features, offsets, background


def pictures(rendered):
    assert rendered.normals is not None
    normals = rendered.normals[..., 2]
    return rendered.image, rendered.alpha, rendered.depth, rendered.features, normals


def derivatives(render, forward):
    """Pictures, radii and info; the gradient of a loss that weighs every pixel; pictures' change.

    `render` takes a scene. The change is that along the scene itself, None unless `forward`.
    """

    def loss(scene, weights):
        rendered = render(*scene)
        total = sum(jnp.vdot(p, w) for p, w in zip(pictures(rendered), weights, strict=True))
        return total, (pictures(rendered), rendered.radii, rendered.info)

    def evaluate(scene, weights):
        gradient, outputs = jax.grad(loss, has_aux=True)(scene, weights)
        if not forward:
            return outputs, gradient, None
        return outputs, gradient, jax.jvp(lambda s: pictures(render(*s)), (scene,), (scene,))[1]

    return jax.jit(evaluate)


def assert_close(actual, expected, tolerance):
    """Largest error of each leaf relative to its largest entry, or to one."""
    for (path, want), got in zip(
        jax.tree.leaves_with_path(expected), jax.tree.leaves(actual), strict=True
    ):
        error = np.max(np.abs(np.asarray(got) - want)) / max(np.max(np.abs(want)), 1.0)
        assert error <= tolerance, f"{jax.tree_util.keystr(path)}: {error:.2g}"


def check_against_one_device(backend, height, mesh, **axes):
    """Compare with the cameras rendered one by one."""
    options: dict[str, Any] = {"backend": backend, "config": CONFIG, "normals": True}

    def sharded(gaussians, cameras, features, offsets, background):
        return render_sharded(
            gaussians,
            cameras,
            mesh,
            features=features,
            screen_offsets=offsets,
            background=background,
            **axes,
            **options,
        )

    def single(gaussians, camera, features, offsets, background):
        return render(
            gaussians,
            camera,
            features=features,
            screen_offsets=offsets,
            background=background,
            **options,
        )

    forward = backend != "xla"  # whose tangents take long to compile
    scene = make_scene(height)
    shapes = jax.eval_shape(lambda scene: pictures(sharded(*scene)), scene)
    rng = np.random.default_rng(1)
    # Depth and normals are quotients, whose gradients are large where little is seen.
    factors = (1, 1, 0.01, 1, 0.01)
    weights = [
        jnp.asarray(factor * rng.normal(size=shape.shape), jnp.float32)
        for factor, shape in zip(factors, shapes, strict=True)
    ]
    outputs, gradient, change = derivatives(sharded, forward)(scene, weights)

    assert all(len(a.sharding.device_set) == 4 for a in jax.tree.leaves(outputs))
    shard = outputs[0][0].addressable_shards[0].data
    views, rows = (1 if axes.get(k) is None else mesh.shape[axes[k]] for k in ("views", "rows"))
    assert shard.shape[0] == VIEWS // views
    assert shard.shape[1] == (height if height % rows else height // rows)

    gaussians, cameras, features, offsets, background = scene
    one_by_one = derivatives(single, forward)
    singles = []
    for i in range(VIEWS):
        camera, offset, weight = jax.tree.map(lambda a, i=i: a[i], (cameras, offsets, weights))
        one = (gaussians, camera, features, offset, background)
        singles.append(jax.device_get(one_by_one(one, weight)))
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *singles)
    (want_pictures, want_radii, want_info), want_gradient, want_change = together
    # Quotients lose digits where little is seen; tangents that move everything, cancel.
    sums, quotients = (0, 1, 3), (2, 4)
    for places, value, tangent in ((sums, 2e-6, 1e-4), (quotients, 5e-5, 5e-4)):
        assert_close([outputs[0][i] for i in places], [want_pictures[i] for i in places], value)
        if forward:
            assert_close([change[i] for i in places], [want_change[i] for i in places], tangent)
    assert_close(outputs[1], want_radii, 1e-6)
    # Cameras and offsets have gradients of their own, the others the sum over views.
    want_gradient = [
        part if place in (1, 3) else jax.tree.map(lambda a: a.sum(axis=0), part)
        for place, part in enumerate(want_gradient)
    ]
    assert_close(gradient, tuple(want_gradient), 1e-5)
    info = outputs[2]
    np.testing.assert_array_equal(info.capacity, want_info.capacity * rows)
    assert not info.overflow.any()
    if rows == 1:
        np.testing.assert_array_equal(info.intersections, want_info.intersections)
    else:
        assert (info.intersections >= want_info.intersections).all()


def check_overflow(mesh):
    """One band of one view has too many: that view is NaN, the others are not touched."""
    gaussians, cameras, *_ = make_scene(24)
    outside = cameras.K.at[:, 1, 2].add(1000)
    cameras = dataclasses.replace(cameras, K=outside.at[2].set(cameras.K[2]).at[2, 1, 2].add(-10))
    axes: dict[str, Any] = {"views": "v", "rows": "r", "backend": "xla"}

    def render_with(capacity, cameras):
        config = Config(capacity=capacity)
        return render_sharded(
            gaussians, cameras, mesh, background=jnp.ones(3), config=config, **axes
        )

    enlarged = render_with(32, cameras)
    needed = int(enlarged.info.intersections[2])
    assert enlarged.info.capacity[2] == 2 * 2 ** int(np.ceil(np.log2(needed)))
    assert not enlarged.info.overflow.any() and np.isfinite(enlarged.image).all()

    def loss(cameras):
        rendered = render_with(32, cameras)
        return jnp.sum(rendered.image), rendered

    gradient, rendered = jax.jit(jax.grad(loss, has_aux=True))(cameras)
    expected = np.arange(VIEWS) == 2
    np.testing.assert_array_equal(rendered.info.overflow, expected)
    np.testing.assert_array_equal(rendered.info.intersections, enlarged.info.intersections)
    for picture in (rendered.image, rendered.alpha, rendered.depth):
        flat = np.isnan(picture).reshape(VIEWS, -1)
        np.testing.assert_array_equal(flat.all(axis=1), expected)
        np.testing.assert_array_equal(flat.any(axis=1), expected)
    np.testing.assert_array_equal(np.isnan(gradient.viewmat).any(axis=(1, 2)), expected)


def main(backend):
    assert len(jax.devices()) == 4
    explicit = jax.make_mesh((2, 2), ("v", "r"), axis_types=(AxisType.Explicit,) * 2)
    check_against_one_device(backend, 22, explicit, views="v", rows="r")
    if backend == "xla":  # it takes long to compile
        check_overflow(jax.make_mesh((2, 2), ("v", "r"), axis_types=(AxisType.Auto,) * 2))
    else:
        line = jax.make_mesh((4,), ("all",), axis_types=(AxisType.Auto,))
        check_against_one_device(backend, 23, line, views="all")
        check_against_one_device(backend, 23, line, rows="all")
    print("same")


@pytest.mark.parametrize("backend", ["xla", "native"])
def test_several_devices_equal_one(same_on_devices, backend):
    if not available(backend):
        pytest.skip(f"backend {backend} does not run on this machine")
    same_on_devices(4, __file__, backend)


def test_rejects_bad_arguments():
    mesh: Any = AbstractMesh((3, 2), ("v", "r"))  # no devices are needed to refuse
    gaussians, cameras, features, _, background = make_scene(24)
    call = functools.partial(render_sharded, gaussians)
    with pytest.raises(ValueError, match=r"views must be one of .* \('v', 'r'\) or None, got 'x'"):
        call(cameras, mesh, views="x")
    with pytest.raises(ValueError, match="rows must be one of"):
        call(cameras, mesh, rows="v ")
    with pytest.raises(ValueError, match=r"name different axes of the mesh .*, got 'v' for both"):
        call(cameras, mesh, views="v", rows="v")
    with pytest.raises(ValueError, match="got None for both"):
        call(cameras, mesh)
    with pytest.raises(
        ValueError, match=r"4 views .* 3 devices along mesh axis 'v'; .* there are 6"
    ):
        call(cameras, mesh, views="v")
    single = jax.tree.map(lambda a: a[0], cameras)
    with pytest.raises(ValueError, match=r"cameras\.viewmat must have 3 axes, .* shape \(4, 4\)"):
        call(single, mesh, rows="r")
    with pytest.raises(ValueError, match=r"cameras\.K must have 3 axes, .* shape \(3, 3\)"):
        call(dataclasses.replace(cameras, K=single.K), mesh, rows="r")
    with pytest.raises(ValueError, match="screen_offsets must have 3 axes"):
        call(cameras, mesh, rows="r", screen_offsets=jnp.zeros((N, 2)))
    with pytest.raises(ValueError, match=r"features must have shape \(60, 2\)"):
        call(cameras, mesh, rows="r", features=features[:7])
    with pytest.raises(ValueError, match="background must have shape"):
        call(cameras, mesh, rows="r", background=background[:7])


if __name__ == "__main__":
    main(sys.argv[1])
