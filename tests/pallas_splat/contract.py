"""What the contract's tests share: scenes, everything that is rendered from them, derivatives.

Run as a program, `contract.py FILE BACKEND...`, it saves all of it for one scene, see
`test_repeatability`.
"""

import contextlib
import dataclasses
import functools
import sys

import jax
import numpy as np
from pallas_splat import Config, engines, pallas, render, workloads

N, WIDTH, HEIGHT = 120, 44, 33  # no multiple of a tile, and one shape for all: few compilations
LIKE = {name: name for name in workloads.SCENES} | {"lens": "clustered", "orthographic": "avatar"}
"""The scene that each case is made from."""

OUTPUTS = ["image", "alpha", "depth", "features", "median_depth", "normals"]
FLOAT32, FLOAT64 = np.float32, np.float64


@contextlib.contextmanager
def running(backend):
    """Let a backend run that needs a GPU where there is none."""
    with contextlib.ExitStack() as stack:
        if backend == "pallas" and not engines.available(backend):
            stack.enter_context(pallas.interpreted())
        yield


def make_config(case):
    return Config(capacity=8192, antialias=case == "lens")


def make_inputs(case):
    """Arguments of `render` as float64 NumPy arrays, the same shapes for the first three cases."""
    scene = LIKE[case]
    gaussians, camera = workloads.SCENES[scene](N, WIDTH)
    if gaussians.linear is None:
        gaussians = dataclasses.replace(gaussians, linear=np.tile(np.eye(3), (N, 1, 1)))
    if scene == "avatar":  # few Gaussians have to be large to overlap
        gaussians.scales[:] *= 3
    camera = dataclasses.replace(camera, height=HEIGHT)
    rng = np.random.default_rng(0)
    inputs = {
        "features": rng.normal(size=(N, 2)),
        "background": rng.uniform(size=3),
        "screen_offsets": 0.3 * rng.normal(size=(N, 2)),
    }
    if case == "lens":
        camera = dataclasses.replace(camera, distortion=np.array([-0.3, 0.1, 0.01, -0.02, 0.02]))
        gaussians = dataclasses.replace(gaussians, colors=0.4 * rng.normal(size=(N, 16, 3)))
    elif case == "orthographic":
        camera = dataclasses.replace(camera, orthographic=True)
        camera.K[[0, 1], [0, 1]] /= camera.viewmat[2, 3]
        colors = 0.4 * rng.normal(size=(N, 4, 3))
        gaussians = dataclasses.replace(gaussians, colors=colors, linear=None)
    return {"gaussians": gaussians, "camera": camera, **inputs}


def make_weights(shapes):
    """Cotangents, so that a loss sees every output of every pixel differently."""
    rng = np.random.default_rng(7)
    size = {"depth": 0.1, "median_depth": 0.1}
    return {name: size.get(name, 1.0) * rng.normal(size=shapes[name]) for name in OUTPUTS}


def make_tangents(inputs):
    """A direction in which all inputs move, each by about a thousandth of its size."""
    rng = np.random.default_rng(8)

    def direction(array):
        return 1e-3 * max(np.std(array), 0.1) * rng.normal(size=array.shape)

    return jax.tree.map(direction, inputs)


def outputs(inputs, backend, config):
    rendered = render(**inputs, backend=backend, config=config, median_depth=True, normals=True)
    return {name: getattr(rendered, name) for name in OUTPUTS}


picture = jax.jit(outputs, static_argnames=("backend", "config"))


@functools.partial(jax.jit, static_argnames=("backend", "config"))
def evaluate(inputs, weights, tangents, backend, config):
    """Outputs, their pullback of the weights, their pushforward of the tangents."""
    function = functools.partial(outputs, backend=backend, config=config)
    values, pullback = jax.vjp(function, inputs)
    pushed = jax.jvp(function, (inputs,), (tangents,))[1]
    return {"values": values, "gradients": pullback(weights)[0], "tangents": pushed}


def arguments(case):
    """Inputs, weights and tangents in float64."""
    inputs = make_inputs(case)
    shapes = {
        name: (HEIGHT, WIDTH) if name in ("alpha", "depth", "median_depth") else (HEIGHT, WIDTH, 3)
        for name in OUTPUTS
    } | {"features": (HEIGHT, WIDTH, 2)}
    return inputs, make_weights(shapes), make_tangents(inputs)


@functools.cache
def evaluated(case, backend, dtype=FLOAT32):
    """`evaluate` on the host."""
    with jax.enable_x64(dtype == FLOAT64), running(backend):
        scene = workloads.cast(arguments(case), dtype)
        return jax.device_get(evaluate(*scene, backend=backend, config=make_config(case)))


def reference(case):
    return evaluated(case, "reference", FLOAT64)


def draw(inputs, backend, config=None):
    """All outputs of float32 inputs."""
    with running(backend):
        inputs = workloads.cast(inputs, FLOAT32)
        return jax.device_get(picture(inputs, backend, config or make_config("clustered")))


def assert_close(actual, expected, tolerance):
    """Bound the largest error of each leaf relative to its largest entry."""
    paths = jax.tree.leaves_with_path(expected)
    for (path, want), got in zip(paths, jax.tree.leaves(actual), strict=True):
        error = np.max(np.abs(np.asarray(got) - want)) / max(np.max(np.abs(want)), 1e-12)
        assert error <= tolerance, f"{jax.tree_util.keystr(path)}: {error:.2g}"


def inner(a, b):
    """Inner product of two pytrees, and the size of its terms."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    terms = [np.ravel(np.asarray(x, FLOAT64) * np.asarray(y, FLOAT64)) for x, y in pairs]
    flat = np.concatenate(terms)
    return np.sum(flat), np.linalg.norm(flat)


if __name__ == "__main__":
    results = {name: evaluated("clustered", name) for name in sys.argv[2:]}
    np.savez(sys.argv[1], *jax.tree.leaves(results))
