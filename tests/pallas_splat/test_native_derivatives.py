"""Backend "native": tangents, the median and wide features against the reference in float64."""

import dataclasses
import functools
import os
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Config, native, reference, render, workloads

WIDTH, HEIGHT, N = 45, 70, 150  # three bands of rows, the last one short; spans of several vectors
CHANNELS = (1, 4, 7, 10, 40)  # narrow kernels for 4 and 7, the wide one with and without a rest


@pytest.fixture(autouse=True, scope="module")
def kernels():
    if not native.available():
        pytest.skip(f"the native kernels are unavailable: {native.unavailable_reason()}")


@functools.cache
def make_scene(name="clustered", channels=4):
    """Gaussians, camera and values to composite, in float64."""
    gaussians, camera = workloads.SCENES[name](N, WIDTH)
    values = np.random.default_rng(1).normal(size=(N, channels))
    return gaussians, dataclasses.replace(camera, height=HEIGHT), values


def run(scene, engine: Any):
    gaussians, camera, values = scene
    projected = engine.project(gaussians, camera, Config())
    out = engine.composite(projected, values, camera.width, camera.height, Config())
    return out.values, out.alpha


def find_median(scene, engine: Any):
    gaussians, camera, _ = scene
    projected = engine.project(gaussians, camera, Config())
    return engine.median(projected, camera.width, camera.height, Config())


def make_tangent(scene):
    """Random numbers of the size of every array's own."""
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda a: rng.normal(size=a.shape) * (0.1 + np.std(a)), scene)


@functools.partial(jax.jit, static_argnames="engine")
def push(scene, tangent, engine):
    return jax.jvp(lambda scene: run(scene, engine), (scene,), (tangent,))


def in_both(function, *arguments):
    """What a function gives with engine native in float32 and reference in float64."""
    actual = jax.device_get(function(*workloads.cast(arguments, jnp.float32), engine=native))
    with jax.enable_x64(True):
        exact = workloads.cast(arguments, jnp.float64)
        return actual, jax.device_get(function(*exact, engine=reference))


def relative_errors(actual, expected):
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return [np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12) for a, b in pairs]


@pytest.mark.parametrize("name", ["clustered", "adversarial"])
def test_tangent_matches_the_reference(name):
    scene = make_scene(name)
    (values, tangents), (want_values, want_tangents) = in_both(push, scene, make_tangent(scene))
    assert max(relative_errors(values, want_values)) < 2e-6
    assert max(relative_errors(tangents, want_tangents)) < 2e-5


@pytest.mark.parametrize("channels", CHANNELS)
def test_any_number_of_channels(channels):
    """Compositing alone, which compiles faster: value, tangent, and gradient by transposition."""
    gaussians, camera, values = make_scene(channels=channels)
    with jax.enable_x64(True):
        projected = reference.project(
            *workloads.cast((gaussians, camera), jnp.float64), config=Config()
        )

    @functools.partial(jax.jit, static_argnames="engine")
    def all_of(x, y, opacity, values, engine):
        def blend(x, y, opacity, values):
            moved = workloads.cast(projected, x.dtype)
            moved = dataclasses.replace(moved, x=x, y=y, opacity=opacity, visible=projected.visible)
            out = engine.composite(moved, values, WIDTH, HEIGHT, Config())
            return out.values, out.alpha

        arguments = x, y, opacity, values
        tangents = jax.tree.map(jnp.cos, arguments)
        outputs, pull = jax.vjp(blend, *arguments)
        return jax.jvp(blend, arguments, tangents), pull(jax.tree.map(jnp.sin, outputs))

    arguments = jax.device_get((projected.x, projected.y, projected.opacity, values))
    assert max(relative_errors(*in_both(all_of, *arguments))) < 2e-5


def test_tangent_is_the_transpose_of_the_gradient():
    scene = workloads.cast(make_scene(channels=7), jnp.float32)
    tangent = workloads.cast(make_tangent(scene), jnp.float32)
    outputs, forward = jax.linearize(lambda scene: run(scene, native), scene)
    cotangent = jax.tree.map(jnp.sin, outputs)
    (pulled,) = jax.linear_transpose(forward, scene)(cotangent)

    def inner(a, b):
        return sum(np.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    np.testing.assert_allclose(
        inner(cotangent, forward(tangent)), inner(pulled, tangent), rtol=1e-4
    )


@pytest.mark.parametrize("name", ["clustered", "adversarial"])
def test_median_matches_the_reference(name):
    find = jax.jit(find_median, static_argnames="engine")
    actual, expected = in_both(find, make_scene(name))
    assert actual.dtype == np.int32
    assert (expected >= 0).any() and (expected < 0).any()
    assert np.mean(actual != expected) < 1e-3  # a transmittance may round across one half


def test_derivatives_are_bitwise_the_same_for_any_number_of_threads():
    gaussians, camera, values = workloads.cast(make_scene(), jnp.float32)
    projected = native.project(gaussians, camera, Config())
    size = WIDTH, HEIGHT

    def tangent(threads):
        blend = lambda v: native.composite_projected(projected, v, *size, threads=threads)  # noqa: E731
        return jax.jvp(blend, (values,), (jnp.cos(values),))

    def index(threads):
        return native.median_projected(projected, *size, threads=threads)

    for function in (tangent, index):
        first, *others = (jax.device_get(function(threads)) for threads in (0, 1, 2))
        for other in others:
            jax.tree.map(np.testing.assert_array_equal, first, other)


def test_median_and_tangents_under_vmap():
    gaussians, camera, values = workloads.cast(make_scene(), jnp.float32)
    shifts = jnp.array([0.0, 0.2, -0.1])

    def one(shift):
        viewmat = camera.viewmat.at[0, 3].add(shift)
        scene = gaussians, dataclasses.replace(camera, viewmat=viewmat), values
        return run(scene, native), find_median(scene, native)

    def pushed(shift):
        return jax.jvp(one, (shift,), (jnp.ones_like(shift),))

    (outputs, ids), (tangents, _) = jax.jit(jax.vmap(pushed))(shifts)
    single = jax.jit(pushed)
    for i, shift in enumerate(shifts):
        (want_outputs, want_ids), (want_tangents, _) = single(shift)
        pick = functools.partial(jax.tree.map, lambda a, i=i: a[i])
        assert max(relative_errors(pick(outputs), want_outputs)) < 1e-5
        assert max(relative_errors(pick(tangents), want_tangents)) < 1e-4
        assert np.mean(ids[i] != want_ids) < 1e-3


def test_second_derivatives_say_who_has_them():
    scene = workloads.cast(make_scene(), jnp.float32)
    gaussians, *others = scene
    energy = lambda means: jnp.sum(  # noqa: E731
        run((dataclasses.replace(gaussians, means=means), *others), native)[0] ** 2
    )
    for mode in (jax.jacfwd, jax.jacrev):
        for first in (jax.grad, jax.jacfwd):
            with pytest.raises(NotImplementedError, match="use backend 'xla' or 'reference'"):
                jax.eval_shape(mode(first(energy)), gaussians.means)


def test_checkpoint_gives_the_same_gradient():
    scene = workloads.cast(make_scene(), jnp.float32)
    loss = lambda scene: jnp.sum(run(scene, native)[0] ** 2)  # noqa: E731
    expected = jax.jit(jax.grad(loss))(scene)
    actual = jax.jit(jax.grad(jax.checkpoint(loss)))(scene)
    assert max(relative_errors(actual, expected)) < 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e-40])
def test_survives_any_number(value):
    """Nothing that reaches the kernels may crash them or loop for ever."""
    gaussians, camera, values = workloads.cast(make_scene(), jnp.float32)
    projected = native.project(gaussians, camera, Config())
    size = 3, 5
    for name in ("x", "y", "conic_xx", "conic_xy", "conic_yy", "opacity", "depth", "extent_x"):
        column = getattr(projected, name).at[::3].set(value)
        damaged = dataclasses.replace(projected, **{name: column})
        blend = lambda p: jnp.sum(native.composite_projected(p, values, *size)[0])  # noqa: E731
        gradient = jax.grad(blend, allow_int=True)(damaged)
        assert gradient.x.shape == projected.x.shape
        ids = native.median_projected(damaged, *size)
        assert ids.min() >= -1 and ids.max() < N


def test_median_depth_of_render():
    gaussians, camera, _ = workloads.cast(make_scene(), jnp.float32)
    actual = render(gaussians, camera, median_depth=True, backend="native").median_depth
    expected = render(gaussians, camera, median_depth=True, backend="reference").median_depth
    assert actual is not None and expected is not None
    assert np.mean(np.abs(actual - expected) > 1e-5) < 1e-3


def test_several_devices_in_one_process():
    """Shards on two CPU devices give what one device gives, in both modes."""
    code = """
        import jax, jax.numpy as jnp, numpy as np, dataclasses
        jax.config.update("jax_num_cpu_devices", 2)
        from jax.sharding import Mesh, PartitionSpec as P
        from pallas_splat import render, workloads
        gaussians, camera = workloads.cast(workloads.clustered(150, 45), jnp.float32)
        views = jnp.stack([camera.viewmat, camera.viewmat.at[0, 3].add(0.2)])

        def loss(gaussians, views):
            def one(viewmat):
                view = dataclasses.replace(camera, viewmat=viewmat)
                return jnp.sum(render(gaussians, view, backend="native").image ** 2)
            return jnp.sum(jax.vmap(one)(views))

        mesh = Mesh(np.array(jax.devices()), ("views",))
        shards = jax.shard_map(
            lambda g, v: jax.lax.psum(loss(g, v), "views"),
            mesh=mesh, in_specs=(P(), P("views")), out_specs=P())
        modes = (jax.value_and_grad,
                 lambda f: lambda g, v: jax.jvp(f, (g, v), jax.tree.map(jnp.cos, (g, v))))
        for mode in modes:
            actual, expected = (
                jax.device_get(jax.jit(mode(f))(gaussians, views)) for f in (shards, loss))
            for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4 * np.abs(e).max())
        print(len(jax.devices()), "devices agree")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert "2 devices agree" in done.stdout, done.stderr[-2000:]
