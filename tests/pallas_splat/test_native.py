"""Backend "native": what is its own, beside the contract that all backends share."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import textwrap
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from pallas_splat import Camera, Config, Gaussians, native, reference, render, workloads
from pallas_splat.native import build, call

WIDTH, HEIGHT = 37, 70  # three bands of rows, the last one short


@pytest.fixture(autouse=True, scope="module")
def kernels():
    if not native.available():
        pytest.skip(f"the native kernels are unavailable: {native.unavailable_reason()}")


def make_scene(n=150, name="clustered"):
    gaussians, camera = workloads.SCENES[name](n, WIDTH)
    return gaussians, dataclasses.replace(camera, height=HEIGHT)


def make_float32_scene():
    return workloads.cast(make_scene(), jnp.float32)


def composite(gaussians, camera, engine: Any = native, **options):
    """Composite colour and depth."""
    projected = engine.project(gaussians, camera, Config())
    values = jnp.concatenate([gaussians.colors, projected.depth[:, None]], axis=1)
    return engine.composite(projected, values, camera.width, camera.height, Config(), **options)


@functools.partial(jax.jit, static_argnames=("engine", "threads"))
def evaluate(scene, engine, threads=0):
    """Composite, and the gradient of a loss that weighs every output differently."""

    def loss(scene):
        options = {"threads": threads} if engine is native else {}
        gaussians, camera = scene
        out = composite(gaussians, camera, engine, **options)
        waves = jnp.sin(jnp.arange(out.values.size, dtype=out.values.dtype))
        total = jnp.sum(out.values * waves.reshape(out.values.shape))
        return total + jnp.sum(out.alpha * jnp.cos(out.values[..., 3])), (out.values, out.alpha)

    return jax.grad(loss, has_aux=True)(scene)


def relative_errors(actual, expected):
    """Norm of the difference over the norm of the expectation, leaf by leaf."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return [np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12) for a, b in pairs]


@pytest.mark.parametrize("name", ["clustered", "adversarial"])
def test_matches_the_reference_across_bands(name):
    scene = make_scene(name=name)
    gradients, outputs = evaluate(workloads.cast(scene, jnp.float32), native)
    with jax.enable_x64(True):
        expected = jax.device_get(evaluate(workloads.cast(scene, jnp.float64), reference))
    assert max(relative_errors(outputs, expected[1])) < 2e-6
    # Rotating a ball changes nothing; the terms of that gradient are large and cancel to rounding.
    tolerance = 2e-5 if name == "clustered" else 5e-4
    assert max(relative_errors(gradients, expected[0])) < tolerance
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_bitwise_the_same_for_any_number_of_threads():
    scene = make_float32_scene()
    first, *others = (jax.device_get(evaluate(scene, native, threads=t)) for t in (0, 1, 2, 1))
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)


def test_vmap_is_bitwise_the_same_as_single_views():
    gaussians, camera = make_float32_scene()
    shifts = jnp.array([0.0, 0.2, -0.1])

    def shifted(shift):
        return gaussians, dataclasses.replace(camera, viewmat=camera.viewmat.at[0, 3].add(shift))

    mapped = jax.jit(jax.vmap(lambda s: evaluate(shifted(s), native)))(shifts)
    nested = jax.jit(jax.vmap(jax.vmap(lambda s: evaluate(shifted(s), native))))(shifts[None])
    jax.tree.map(np.testing.assert_array_equal, mapped, jax.tree.map(lambda a: a[0], nested))
    for i, shift in enumerate(shifts):
        single = evaluate(shifted(shift), native)
        errors = relative_errors(jax.tree.map(lambda a, i=i: a[i], mapped), single)
        assert max(errors) < 1e-5  # XLA may round the projection differently under vmap


def test_shard_map():
    gaussians, camera = make_float32_scene()
    views = jnp.stack([camera.viewmat, camera.viewmat.at[0, 3].add(0.2)])

    def loss(colors, views, axis=None):
        def one(viewmat):
            scene = dataclasses.replace(gaussians, colors=colors)
            view = dataclasses.replace(camera, viewmat=viewmat)
            return jnp.sum(composite(scene, view).values ** 2)

        total = jnp.sum(jax.vmap(one)(views))
        return total if axis is None else jax.lax.psum(total, axis)

    mesh = Mesh(np.array(jax.devices("cpu")[:1]), ("views",))
    sharded = jax.shard_map(
        functools.partial(loss, axis="views"), mesh=mesh, in_specs=(P(), P("views")), out_specs=P()
    )
    actual, expected = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(gaussians.colors, views)
        for f in (sharded, loss)
    )
    assert max(relative_errors(actual, expected)) < 1e-5


@pytest.mark.parametrize("size", [(1, 65), (300, 2)])
def test_odd_image_sizes(size):
    gaussians, camera = workloads.cast(make_scene(40), jnp.float32)
    K = jnp.array([[100.0, 0, size[0] / 2], [0, 100.0, size[1] / 2], [0, 0, 1]])
    scene = gaussians, Camera(camera.viewmat, K, *size)
    actual, expected = evaluate(scene, native), evaluate(scene, reference)
    assert max(relative_errors(actual[1], expected[1])) < 1e-4


def test_no_gaussians():
    gaussians, camera = make_float32_scene()
    nothing = jax.tree.map(lambda a: a[:0], gaussians)
    gradients, (values, alpha) = evaluate((nothing, camera), native)
    assert not values.any() and not alpha.any()
    assert gradients[0].means.shape == (0, 3)


def test_what_is_not_finite_is_not_drawn():
    gaussians, camera = make_float32_scene()
    broken = jnp.arange(len(gaussians.means)) % 5
    damaged = dataclasses.replace(
        gaussians,
        means=jnp.where((broken == 0)[:, None], jnp.nan, gaussians.means),
        scales=jnp.where((broken == 1)[:, None], 1e30, gaussians.scales),
        opacities=jnp.where(broken == 2, jnp.nan, gaussians.opacities),
    )
    whole = jax.tree.map(lambda a: a[broken >= 3], gaussians)
    projection_only = composite(damaged, camera)
    expected = composite(whole, camera)
    np.testing.assert_allclose(projection_only.values[..., :3], expected.values[..., :3], atol=1e-6)


def test_refuses_float64():
    with jax.enable_x64(True):
        gaussians, camera = workloads.cast(make_scene(), jnp.float64)
        with pytest.raises(NotImplementedError, match="float32, got float64; use backend 'xla'"):
            composite(gaussians, camera)


# What happens where the kernels cannot be compiled.


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Forget what was loaded, and keep nothing of the test."""
    monkeypatch.setenv("JAXAVATAR_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    for cached in (build.load, call.unavailable_reason, call.announce_unavailable):
        cached.cache_clear()
    yield monkeypatch
    for cached in (build.load, call.unavailable_reason, call.announce_unavailable):
        cached.cache_clear()


def render_one_pixel():
    gaussians = Gaussians(
        jnp.array([[0.0, 0.0, 2.0]]),
        jnp.array([[1.0, 0.0, 0.0, 0.0]]),
        jnp.full((1, 3), 0.1),
        jnp.array([0.5]),
        jnp.ones((1, 3)),
    )
    K = jnp.array([[20.0, 0, 0.5], [0, 20.0, 0.5], [0, 0, 1]])
    return render(gaussians, Camera(jnp.eye(4), K, 1, 1))


def test_without_a_compiler_falls_back_and_says_so_once(fresh, tmp_path):
    fresh.setenv("PATH", str(tmp_path))
    assert not native.available()
    remedy = r"no C\+\+ compiler was found; install g\+\+ or clang\+\+, or set CXX"
    with pytest.warns(RuntimeWarning, match=remedy):
        rendered = render_one_pixel()
    np.testing.assert_allclose(rendered.image, [[[0.5, 0.5, 0.5]]], rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render_one_pixel()
    with pytest.raises(NotImplementedError, match=remedy):
        gaussians, camera = make_float32_scene()
        composite(gaussians, camera)


def test_reasons_name_the_remedy(fresh, tmp_path):
    fresh.setenv("CXX", "no-such-compiler")
    assert native.unavailable_reason() == (
        "the compiler CXX='no-such-compiler' does not exist; unset or correct it"
    )
    call.unavailable_reason.cache_clear()
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'error: bad luck' >&2\nexit 1")
    broken.chmod(0o755)
    fresh.setenv("CXX", str(broken))
    assert "cannot compile the kernels (error: bad luck); set CXX" in str(
        native.unavailable_reason()
    )
    assert not list((tmp_path / "native").iterdir())  # nothing half done stays behind


def test_cache_that_cannot_be_written(fresh, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    fresh.setenv("JAXAVATAR_CACHE", str(blocked))
    assert "set JAXAVATAR_CACHE to a folder that can be written" in str(native.unavailable_reason())


def test_two_processes_compile_at_once_and_without_avx2(tmp_path):
    """Both compile into an empty cache; a machine of unknown kind gets the baseline kernels."""
    code = """
        import platform, sys
        import numpy as np
        platform.machine = lambda: "unknown"
        sys.path[:0] = sys.argv[2:]
        import test_native
        scene = test_native.make_float32_scene()
        gradients, outputs = test_native.evaluate(scene, test_native.native)
        np.savez(sys.argv[1], *test_native.jax.tree.leaves((gradients, outputs)))
    """
    environment = os.environ | {"JAXAVATAR_CACHE": str(tmp_path)}
    here = str(pathlib.Path(__file__).parent)
    files = [tmp_path / f"{name}.npz" for name in "ab"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(file), here, *sys.path],
            env=environment,
        )
        for file in files
    ]
    assert [process.wait() for process in processes] == [0, 0]
    (library,) = (tmp_path / "native").iterdir()
    assert library.name.startswith("pallas_splat-")
    expected = jax.tree.leaves(evaluate(make_float32_scene(), native))
    for file in files:
        with np.load(file) as saved:
            assert max(relative_errors([saved[name] for name in saved.files], expected)) < 1e-5
