"""Backend "pallas" against backend "reference" in float64; interpreted where there is no GPU."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pallas_splat.pallas as pallas_backend
import pytest
from pallas_splat import Config, available, reference, render, workloads
from pallas_splat.binning import Grid, tile_boxes
from pallas_splat.config import ALPHA_MIN
from pallas_splat.pallas.lists import count_entries, list_gaussians
from pallas_splat.project import project

N, WIDTH, HEIGHT = 120, 44, 33  # no multiples of a tile
CHANNELS = 18  # more than one program takes: two groups of nine
CONFIG = Config(capacity=4096)
MOVING = ("x", "y", "conic_xx", "conic_xy", "conic_yy", "opacity")


@pytest.fixture(autouse=True)
def interpreter():
    with contextlib.nullcontext() if available("pallas") else pallas_backend.interpreted():
        yield


def behind_a_wall(n, size):
    """Opaque Gaussians larger than the image in front of all others."""
    gaussians, camera = workloads.clustered(n, size)
    gaussians.means[:8] = (0.0, 0.0, 1.0)
    gaussians.scales[:8] = 10.0
    gaussians.opacities[:8] = 0.9
    return gaussians, camera


SCENES = workloads.SCENES | {"wall": behind_a_wall}


@functools.cache
def make_scene(name):
    """Float32 arrays: what moves of the projected Gaussians, the rest of them, values."""
    gaussians, camera = SCENES[name](N, WIDTH)
    if name == "avatar":  # few Gaussians have to be large to overlap
        gaussians = dataclasses.replace(gaussians, scales=gaussians.scales * 3)
    camera = dataclasses.replace(camera, height=HEIGHT)
    projected = jax.jit(project, static_argnums=2)(
        *workloads.cast((gaussians, camera), jnp.float32), CONFIG
    )
    values = np.random.default_rng(0).normal(size=(N, CHANNELS)).astype(np.float32)
    moving = {name: getattr(projected, name) for name in MOVING}
    return jax.device_get((moving, projected, values))


def composite(moving, projected, values, engine, config=CONFIG):
    layers = engine.composite(
        dataclasses.replace(projected, **moving), values, WIDTH, HEIGHT, config
    )
    return layers.values, layers.alpha


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), tree)


@functools.partial(jax.jit, static_argnames="engine")
def evaluate(moving, projected, values, engine):
    """Layers, and their cotangents for a fixed random pull."""
    layers, pull_back = jax.vjp(
        lambda moving, values: composite(moving, projected, values, engine), moving, values
    )
    return layers, pull_back(random_like(layers, 1))


@functools.partial(jax.jit, static_argnames="engine")
def tangents(moving, projected, values, directions, engine):
    def layers(moving, values):
        return composite(moving, projected, values, engine)

    return jax.jvp(layers, (moving, values), directions)[1]


def in_float64(function, *arguments):
    """Evaluate with the reference, inputs being the same numbers."""

    def widen(leaf):
        return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf

    with jax.enable_x64(True):
        return jax.device_get(function(*jax.tree.map(widen, arguments), engine=reference))


def assert_close(actual, expected, tolerance):
    """Largest error of each leaf relative to its largest entry."""
    paths = jax.tree.leaves_with_path(expected)
    for (path, want), got in zip(paths, jax.tree.leaves(actual), strict=True):
        error = np.max(np.abs(np.asarray(got) - want)) / max(np.max(np.abs(want)), 1e-12)
        assert error <= tolerance, f"{jax.tree_util.keystr(path)}: {error:.2g}"


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("tile", [4, 8])
def test_lists_hold_what_touches_a_tile(name, tile):
    """In each tile all Gaussians with a visible pixel there, none twice, none beyond its box."""
    moving, projected, _ = make_scene(name)
    projected = dataclasses.replace(projected, **moving)
    grid = Grid(WIDTH, HEIGHT, tile)
    made = jax.jit(list_gaussians, static_argnums=(1, 2))(projected, grid, 8192)
    counted = jax.jit(count_entries, static_argnums=1)(projected, grid)
    assert made.total == counted == made.starts[grid.tiles]

    boxes = tile_boxes(projected, grid)
    column, row = np.meshgrid(np.arange(grid.columns * tile), np.arange(grid.rows * tile))
    touched = np.asarray(alphas_in_float64(projected, column, row) >= ALPHA_MIN)
    touched &= (column < WIDTH) & (row < HEIGHT) & (boxes.count > 0)[:, None, None]
    pixels = (N, grid.rows, tile, grid.columns, tile)
    touched = touched.reshape(pixels).any(axis=(2, 4)).reshape(N, -1)
    for number in range(grid.tiles):
        found = made.ids[made.starts[number] : made.starts[number + 1]]
        assert len(set(found.tolist())) == len(found)
        assert set(np.flatnonzero(touched[:, number])) <= set(found.tolist())
        np.testing.assert_array_less(-1e-9, np.diff(projected.depth[found]))
        across = number % grid.columns - boxes.left[found]
        down = number // grid.columns - boxes.top[found]
        assert ((across >= 0) & (across < boxes.columns[found])).all()
        assert ((down >= 0) & (down * boxes.columns[found] < boxes.count[found])).all()
    if name == "clustered" and tile == 4:
        assert made.total < 0.9 * boxes.count.sum()


def alphas_in_float64(projected, column, row):
    values = {name: np.asarray(getattr(projected, name), np.float64) for name in MOVING}
    x, y, xx, xy, yy, opacity = (values[name][:, None, None] for name in MOVING)
    dx, dy = column + 0.5 - x, row + 0.5 - y
    return opacity * np.exp(-0.5 * (xx * dx**2 + yy * dy**2) - xy * dx * dy)


@pytest.mark.parametrize("name", SCENES)
def test_values_and_gradients_of_many_channels(name):
    layers, gradients = evaluate(*make_scene(name), engine=pallas_backend)
    want_layers, want_gradients = in_float64(evaluate, *make_scene(name))
    assert_close(layers, want_layers, 1e-5)
    assert_close(gradients, want_gradients, 1e-4)


@pytest.mark.parametrize("name", ["clustered", "adversarial"])
def test_tangents(name):
    moving, projected, values = make_scene(name)
    directions = jax.tree.map(
        lambda a, b: a * b, random_like((moving, values), 2), (moving, values)
    )
    actual = tangents(moving, projected, values, directions, engine=pallas_backend)
    assert_close(actual, in_float64(tangents, moving, projected, values, directions), 1e-4)


def test_gaussians_behind_a_wall_get_no_gradient():
    """The tiles stop early; rows of the gradient that were never reached hold zeros."""
    _, (moving, values) = evaluate(*make_scene("wall"), engine=pallas_backend)
    assert np.abs(values[:3]).min() > 0
    for gradient in (*moving.values(), values):
        np.testing.assert_array_equal(gradient[8:], 0)


def test_bitwise_repeatable():
    first, second = (evaluate(*make_scene("clustered"), engine=pallas_backend) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("name", ["clustered", "adversarial"])
def test_median(name):
    _, projected, _ = make_scene(name)
    median = jax.jit(pallas_backend.median, static_argnums=(1, 2, 3))
    actual = median(projected, WIDTH, HEIGHT, CONFIG)
    expected = reference.median(projected, WIDTH, HEIGHT, CONFIG)
    np.testing.assert_array_equal(actual, expected)
    assert (expected >= 0).any()
    assert (expected < 0).any()


def test_vmap_over_both_arguments_in_larger_tiles():
    moving, projected, values = jax.tree.map(jnp.asarray, make_scene("clustered"))
    values = values[:, :2]
    shifted = jnp.stack([moving["x"], moving["x"] + 3.3])

    def loss(x, values, engine):
        layers = composite(
            {"x": x}, projected, values, engine, dataclasses.replace(CONFIG, tile=16)
        )
        return sum(jnp.sum(layer**2) for layer in layers)

    def mapped(engine):
        over_x = jax.vmap(jax.value_and_grad(loss, (0, 1)), (0, None, None))
        return jax.vmap(over_x, (None, 0, None))(shifted, jnp.stack([values, -2 * values]), engine)

    assert_close(
        jax.jit(mapped, static_argnums=0)(pallas_backend),
        jax.device_get(jax.jit(mapped, static_argnums=0)(reference)),
        1e-4,
    )


def test_what_does_not_fit_gives_nan():
    moving, projected, values = make_scene("clustered")

    @jax.jit
    def differentiate(moving, values):
        def loss(moving, values):
            layers = pallas_backend.composite(
                dataclasses.replace(projected, **moving), values, WIDTH, HEIGHT, Config(capacity=64)
            )
            return jnp.sum(layers.values[0, 0]), layers

        return jax.grad(loss, (0, 1), has_aux=True)(moving, values)

    gradients, layers = differentiate(moving, values[:, :1])
    assert layers.info.overflow
    assert layers.info.capacity == 64 < layers.info.intersections
    for leaf in jax.tree.leaves((gradients, layers.values, layers.alpha)):
        assert np.isnan(leaf).all()


def test_one_pixel_of_a_rendered_view():
    gaussians, camera = workloads.cast(workloads.clustered(7, 1), jnp.float32)
    camera = dataclasses.replace(camera, height=1)
    actual, expected = (
        render(gaussians, camera, backend=backend, median_depth=True)
        for backend in ("pallas", "reference")
    )
    for name in ("image", "alpha", "depth", "median_depth"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), rtol=1e-5)


def test_only_first_derivatives():
    moving, projected, values = make_scene("clustered")

    def loss(values):
        return jnp.sum(composite(moving, projected, values, pallas_backend)[0] ** 2)

    with pytest.raises(NotImplementedError, match="first derivatives only"):
        jax.eval_shape(jax.hessian(loss), values[:, :1])


def test_refuses_float64_and_odd_tiles():
    moving, projected, values = make_scene("clustered")
    with pytest.raises(NotImplementedError, match="power of two, got 12"):
        composite(moving, projected, values, pallas_backend, Config(tile=12))
    with (
        jax.enable_x64(True),
        pytest.raises(NotImplementedError, match="computes in float32, got float64"),
    ):
        wide = {name: jnp.asarray(array, jnp.float64) for name, array in moving.items()}
        composite(wide, projected, values, pallas_backend)
