"""What every backend promises, checked against backend "reference" in float64.

A new backend joins by its name in `BACKENDS`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Camera, Config, Gaussians, available, estimate_capacity, render, workloads

BACKENDS = ["xla", "native"]
SCENES = ["avatar", "clustered", "adversarial"]

N, WIDTH, HEIGHT = 120, 44, 33  # no multiple of a tile, and one shape for all: few compilations
CONFIG = Config(capacity=8192)


@pytest.fixture(params=BACKENDS)
def backend(request):
    if not available(request.param):
        pytest.skip(f"backend {request.param} does not run on this machine")
    return request.param


def make_scene(name, seed=0):
    """Arguments of `render` as float64 NumPy arrays, the same shapes for all scenes."""
    gaussians, camera = workloads.SCENES[name](N, WIDTH)
    if gaussians.linear is None:
        gaussians = dataclasses.replace(gaussians, linear=np.tile(np.eye(3), (N, 1, 1)))
    if name == "avatar":  # few Gaussians have to be large to overlap
        gaussians = dataclasses.replace(gaussians, scales=gaussians.scales * 3)
    camera = dataclasses.replace(camera, height=HEIGHT)
    rng = np.random.default_rng(seed)
    features, background = rng.normal(size=(N, 2)), rng.uniform(size=3)
    return gaussians, camera, features, background


def make_weights():
    """Random weights, so that the loss sees every output of every pixel differently."""
    rng = np.random.default_rng(7)
    return {
        "image": rng.normal(size=(HEIGHT, WIDTH, 3)),
        "alpha": rng.normal(size=(HEIGHT, WIDTH)),
        "depth": 0.1 * rng.normal(size=(HEIGHT, WIDTH)),
        "features": rng.normal(size=(HEIGHT, WIDTH, 2)),
    }


def render_with(backend, gaussians, camera, features=None, background=None):
    return render(
        gaussians, camera, features=features, background=background, backend=backend, config=CONFIG
    )


def loss_and_outputs(scene, weights, backend):
    gaussians, camera, features, background = scene
    rendered = render_with(backend, gaussians, camera, features, background)
    outputs = {name: getattr(rendered, name) for name in weights}
    return sum(jnp.sum(outputs[name] * weights[name]) for name in weights), outputs


@functools.partial(jax.jit, static_argnames="backend")
def evaluate(scene, weights, backend):
    """Outputs and the loss's gradient with respect to everything."""
    differentiate = jax.grad(loss_and_outputs, has_aux=True)
    gradients, outputs = differentiate(scene, weights, backend)
    return outputs, gradients


@functools.cache
def reference(name):
    with jax.enable_x64(True):
        arguments = workloads.cast((make_scene(name), make_weights()), jnp.float64)
        return jax.device_get(evaluate(*arguments, backend="reference"))


def float32(name):
    return workloads.cast((make_scene(name), make_weights()), jnp.float32)


def assert_close(actual, expected, tolerance):
    """Largest error of each leaf relative to its largest entry."""
    paths = jax.tree.leaves_with_path(expected)
    for (path, want), got in zip(paths, jax.tree.leaves(actual), strict=True):
        error = np.max(np.abs(np.asarray(got) - want)) / max(np.max(np.abs(want)), 1e-12)
        assert error <= tolerance, f"{jax.tree_util.keystr(path)}: {error:.2g}"


@pytest.mark.parametrize("name", SCENES)
def test_values_and_gradients(backend, name):
    outputs, gradients = evaluate(*float32(name), backend=backend)
    want_outputs, want_gradients = reference(name)
    assert_close(outputs, want_outputs, 1e-5)
    assert_close(gradients, want_gradients, 1e-4)


@pytest.mark.parametrize("name", ["clustered", "adversarial"])
def test_bitwise_repeatable(backend, name):
    first, second = (jax.device_get(evaluate(*float32(name), backend=backend)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_order_of_gaussians_does_not_matter(backend):
    (gaussians, camera, features, background), _ = float32("clustered")
    shuffle = np.random.default_rng(0).permutation(N)
    shuffled = jax.tree.map(lambda a: a[shuffle], (gaussians, features))
    image = render_with(backend, gaussians, camera, features, background).image
    again = render_with(backend, shuffled[0], camera, shuffled[1], background).image
    np.testing.assert_array_equal(image, again)


def test_vmap_over_cameras_and_scenes(backend):
    (gaussians, camera, features, background), weights = float32("clustered")
    cameras = dataclasses.replace(camera, viewmat=jnp.stack([camera.viewmat, camera.viewmat]))
    cameras = dataclasses.replace(cameras, viewmat=cameras.viewmat.at[1, 0, 3].add(0.3))
    colors = jnp.stack([gaussians.colors, gaussians.colors[::-1]])

    def loss(viewmat, colors, means):
        scene = (
            dataclasses.replace(gaussians, colors=colors, means=means),
            dataclasses.replace(camera, viewmat=viewmat),
            features,
            background,
        )
        return loss_and_outputs(scene, weights, backend)[0]

    differentiate = jax.value_and_grad(loss, argnums=(0, 1, 2))
    both = jax.jit(jax.vmap(differentiate, in_axes=(0, 0, None)))
    mapped = both(cameras.viewmat, colors, gaussians.means)
    single = jax.jit(differentiate)
    for i in range(2):
        expected = single(cameras.viewmat[i], colors[i], gaussians.means)
        actual = [leaf[i] for leaf in jax.tree.leaves(mapped)]
        assert_close(actual, jax.tree.leaves(jax.device_get(expected)), 1e-5)


def test_black_gaussians_show_the_background_where_alpha_is_missing(backend):
    (gaussians, camera, features, _), _ = float32("clustered")
    black = dataclasses.replace(gaussians, colors=jnp.zeros((N, 3)))
    rendered = render_with(backend, black, camera, features, jnp.ones(3))
    np.testing.assert_array_equal(rendered.image, jnp.tile(1 - rendered.alpha[..., None], 3))
    assert 0.1 < rendered.alpha.max() < 1


def test_uniform_colour_and_features_follow_alpha(backend):
    (gaussians, camera, *_), _ = float32("clustered")
    grey = dataclasses.replace(gaussians, colors=jnp.full((N, 3), 0.25))
    rendered = render_with(backend, grey, camera, jnp.full((N, 2), -2.0), jnp.zeros(3))
    assert rendered.features is not None
    for values, factor in ((rendered.image, 0.25), (rendered.features, -2)):
        expected = np.broadcast_to(factor * rendered.alpha[..., None], values.shape)
        np.testing.assert_allclose(values, expected, atol=1e-6)


def one_gaussian(z=2.0, opacity=0.8, copies=1):
    return Gaussians(
        means=jnp.tile(jnp.array([0.0, 0.0, z]), (copies, 1)),
        quats=jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (copies, 1)),
        scales=jnp.full((copies, 3), 0.1),
        opacities=jnp.full(copies, opacity),
        colors=jnp.tile(jnp.array([1.0, 0.5, 0.25]), (copies, 1)),
    )


def pinhole(width, height, focal=20.0):
    K = jnp.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(jnp.eye(4), K, width, height)


def test_one_gaussian_in_one_pixel(backend):
    rendered = render_with(backend, one_gaussian(), pinhole(1, 1))
    np.testing.assert_allclose(rendered.alpha, [[0.8]], rtol=1e-6)
    np.testing.assert_allclose(rendered.image, [[[0.8, 0.4, 0.2]]], rtol=1e-6)
    np.testing.assert_allclose(rendered.depth, [[2.0]], rtol=1e-6)
    assert rendered.features is None


def test_a_pixel_ends_before_the_gaussian_that_exhausts_it(backend):
    """T falls to 0.001, the fourth would leave too little, and the fifth is behind that end."""
    stack = dataclasses.replace(
        one_gaussian(copies=5),
        means=jnp.zeros((5, 3)).at[:, 2].set(jnp.arange(2.0, 7.0)),
        opacities=jnp.array([0.9, 0.9, 0.9, 0.95, 0.5]),
    )

    def alpha(opacities):
        gaussians = dataclasses.replace(stack, opacities=opacities)
        return render_with(backend, gaussians, pinhole(1, 1)).alpha[0, 0]

    value, gradient = jax.value_and_grad(alpha)(stack.opacities)
    np.testing.assert_allclose(value, 0.999, rtol=1e-6)
    np.testing.assert_allclose(gradient[:3], 0.01, rtol=1e-3)
    np.testing.assert_array_equal(gradient[3:], 0)


@pytest.mark.parametrize("gaussians", [one_gaussian(z=-2.0), one_gaussian(opacity=0.0)])
def test_nothing_to_see(backend, gaussians):
    rendered = render_with(backend, gaussians, pinhole(1, 1), background=jnp.ones(3))
    assert rendered.alpha == 0 and rendered.depth == 0
    np.testing.assert_array_equal(rendered.image, np.ones((1, 1, 3)))


def test_no_gaussians(backend):
    empty = jax.tree.map(lambda a: a[:0], one_gaussian())
    background = jnp.arange(12.0).reshape(2, 2, 3)
    rendered = render_with(backend, empty, pinhole(2, 2), jnp.zeros((0, 3)), background)
    np.testing.assert_array_equal(rendered.image, background)
    assert rendered.features is not None and rendered.features.shape == (2, 2, 3)


def test_estimated_capacity_is_enough():
    (gaussians, camera, *_), _ = float32("clustered")
    capacity = estimate_capacity(gaussians, camera, margin=1.0)
    info = render(gaussians, camera, backend="xla", config=Config(capacity=capacity)).info
    assert not info.overflow
    assert info.capacity == capacity
    assert capacity - 1024 < info.intersections <= capacity
