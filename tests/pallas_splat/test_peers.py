"""The backends against gsplat's torch reference, an implementation that shares nothing with ours.

gsplat and this package form images alike where opacities are at most 0.99 (gsplat caps alpha at
0.999, we at 0.99) and Gaussians are no thinner than the floor of the Mip compensation; gsplat's
boxes of 3.33 standard deviations hold every pixel above the common threshold of 1/255. gsplat's
gradients are torch's, through its own projection and alphas, in float64.

What gsplat gives is stored beside this file, so that the comparison runs where torch does not;
`python tests/pallas_splat/test_peers.py` makes it anew, and where gsplat is installed (the extra
`peers`) a test holds what is stored against it.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Camera, Config, available, render, workloads

BACKENDS = ["xla", "native"]
NAMES = ("means", "quats", "scales", "opacities", "colors")
READ = ([0, 1, 0, 1], [0, 1, 2, 2])
"""Entries of K that are read: gsplat also knows skew."""
N, WIDTH, HEIGHT = 100, 30, 22
CASES = [(name, antialias) for name in ("avatar", "clustered") for antialias in (False, True)]
STORED = pathlib.Path(__file__).with_name("gsplat_torch.npz")


@pytest.fixture(params=BACKENDS)
def backend(request):
    if not available(request.param):
        pytest.skip(f"backend {request.param} does not run on this machine")
    return request.param


@functools.cache
def scene(name):
    gaussians, camera = workloads.SCENES[name](N, WIDTH)
    gaussians = dataclasses.replace(gaussians, linear=None)
    if name == "avatar":  # few Gaussians have to be large to overlap
        gaussians = dataclasses.replace(gaussians, scales=gaussians.scales * 3)
    weights = np.random.default_rng(5).normal(size=(HEIGHT, WIDTH, 4))
    return gaussians, dataclasses.replace(camera, height=HEIGHT), weights


def ask_gsplat(name, antialias, fast_lists=True):
    """Image and alpha, and gradients with respect to `NAMES`, viewmat and K, from gsplat."""
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmarks.peers import gsplat_torch

    gaussians, camera, weights = scene(name)
    arrays = [getattr(gaussians, n) for n in NAMES] + [camera.viewmat, camera.K]
    leaves = [torch.tensor(np.asarray(a), dtype=torch.float64, requires_grad=True) for a in arrays]
    *parameters, viewmat, K = leaves
    draw: Any = gsplat_torch.render
    image, alpha = draw(
        *parameters, viewmat[None], K, WIDTH, HEIGHT, antialias=antialias, fast_lists=fast_lists
    )
    seen = torch.cat([image[0], alpha[0, ..., None]], dim=-1)
    gradients = torch.autograd.grad((seen * torch.tensor(weights)).sum(), leaves)
    return seen.numpy(force=True), [np.asarray(g) for g in (*gradients[:-1], gradients[-1][READ])]


@functools.cache
def theirs(name, antialias):
    """What is stored of `ask_gsplat`."""
    with np.load(STORED) as stored:
        seen, *gradients = (stored[_key(name, antialias, i)] for i in range(len(NAMES) + 3))
    return seen, gradients


def _key(name, antialias, i):
    return f"{name}-{antialias}-{i}"


def store():
    """Make the file anew."""
    arrays: dict[str, Any] = {}
    for name, antialias in CASES:
        seen, gradients = ask_gsplat(name, antialias)
        arrays |= {_key(name, antialias, i): a for i, a in enumerate([seen, *gradients])}
    np.savez_compressed(STORED, **arrays)


@functools.partial(jax.jit, static_argnames=("backend", "antialias"))
def evaluate(gaussians, viewmat, K, weights, backend, antialias):
    def loss(gaussians, viewmat, K):
        camera = Camera(viewmat, K, WIDTH, HEIGHT)
        config = Config(capacity=8192, antialias=antialias)
        rendered = render(gaussians, camera, backend=backend, config=config)
        seen = jnp.concatenate([rendered.image, rendered.alpha[..., None]], axis=-1)
        return jnp.sum(seen * weights), seen

    return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(gaussians, viewmat, K)


def ours(name, antialias, backend, dtype):
    gaussians, camera, weights = workloads.cast(scene(name), dtype)
    arguments = (gaussians, camera.viewmat, camera.K, weights)
    (gradient, *others), seen = evaluate(*arguments, backend=backend, antialias=antialias)
    return seen, [*(getattr(gradient, n) for n in NAMES), others[0], others[1][READ]]


def assert_close(actual, expected, values, gradients):
    """Largest error over largest entry."""
    assert np.max(np.abs(actual[0] - expected[0])) <= values * np.max(np.abs(expected[0]))
    for name, got, want in zip((*NAMES, "viewmat", "K"), actual[1], expected[1], strict=True):
        error = np.max(np.abs(np.asarray(got) - want)) / np.max(np.abs(want))
        assert error <= gradients, f"{name}: {error:.2g}"


@pytest.mark.parametrize(("name", "antialias"), CASES)
def test_values_and_gradients_in_float32(backend, name, antialias):
    expected = theirs(name, antialias)
    assert 0.3 < np.max(expected[0][..., 3]) < 1
    assert_close(ours(name, antialias, backend, jnp.float32), expected, 1e-5, 1e-4)


@pytest.mark.parametrize("name", ["avatar", "clustered"])
def test_values_and_gradients_in_float64(name):
    with jax.enable_x64(True):
        assert_close(ours(name, False, "xla", jnp.float64), theirs(name, False), 1e-12, 1e-10)


@pytest.fixture
def gsplat():
    for module in ("torch", "gsplat"):
        pytest.importorskip(module, reason=f"the peers' {module} is not installed")


def test_what_is_stored_is_what_gsplat_gives(gsplat):
    for name, antialias in CASES:
        assert_close(ask_gsplat(name, antialias), theirs(name, antialias), 1e-12, 1e-10)


def test_lists_of_tiles_are_as_gsplat_makes_them(gsplat):
    """The adapter's own list of pairs gives bitwise what gsplat's Python loop gives."""
    expected = ask_gsplat("clustered", False, fast_lists=False)
    actual = ask_gsplat("clustered", False)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


if __name__ == "__main__":
    store()
