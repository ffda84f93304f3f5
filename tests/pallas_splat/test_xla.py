"""Derivatives of backend "xla" in every mode, against "reference" and finite differences."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from pallas_splat import Config, render, workloads
from pallas_splat.engines import engine
from pallas_splat.project import project

SCENE = 24, 21  # Gaussians, pixels: no multiple of the tile
CONFIG = Config(lanes=3, chunk=2)  # fewer lanes than tiles, lists of several chunks


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def scene(name="clustered"):
    return workloads.cast(workloads.SCENES[name](*SCENE), jnp.float64)


def loss(backend, config=CONFIG):
    """Weigh image, opacity and depth at random; of Gaussians and view matrix."""
    camera = scene()[1]
    weights = np.random.default_rng(1).standard_normal((5, camera.height, camera.width))

    def function(gaussians, viewmat):
        view = dataclasses.replace(camera, viewmat=viewmat)
        out = render(gaussians, view, backend=backend, config=config)
        planes = [*jnp.moveaxis(out.image**2, -1, 0), out.alpha, out.depth]
        return sum(jnp.sum(w * plane) for w, plane in zip(weights, planes, strict=True))

    return function


def inputs():
    gaussians, camera = scene()
    at = gaussians, camera.viewmat
    rng = np.random.default_rng(2)
    return at, jax.tree.map(lambda a: jnp.asarray(0.1 * rng.standard_normal(a.shape)), at)


def close(actual, expected, rtol):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=rtol * float(jnp.max(jnp.abs(e))) + 1e-300)


def scaled(tree, factor):
    return jax.tree.map(lambda a: a * factor, tree)


FACTORS = np.array([1.0, 0.98, 1.03])
BOTH = (0, 1)
MODES = {
    "forward": lambda f, at, along: jax.jvp(f, at, along),
    "reverse": lambda f, at, along: jax.grad(f, BOTH)(*at),
    "forward over reverse": lambda f, at, along: jax.jvp(jax.grad(f, BOTH), at, along),
    "mapped forward": lambda f, at, along: jax.vmap(
        lambda s: jax.jvp(f, scaled(at, s), scaled(along, s))
    )(FACTORS),
    "mapped points": lambda f, at, along: jax.vmap(
        lambda s: jax.jvp(jax.grad(f), scaled(at, s), along)
    )(FACTORS),
    "columns of the Hessian": lambda f, at, along: jax.jacfwd(
        jax.grad(lambda opacities: f(dataclasses.replace(at[0], opacities=opacities), at[1]))
    )(at[0].opacities),
}


@pytest.mark.parametrize("mode", MODES)
def test_derivatives_agree_with_reference(mode):
    at, along = inputs()

    def evaluate(backend):
        return jax.jit(lambda: MODES[mode](loss(backend), at, along))()

    close(evaluate("xla"), evaluate("reference"), 1e-10)


def test_check_grads():
    (gaussians, viewmat), _ = inputs()
    parts = {"means": 3, "scales": 3, "opacities": 1, "colors": 3}

    def of(means, scales, opacities, colors):
        changed = dataclasses.replace(
            gaussians, means=means, scales=scales, opacities=opacities, colors=colors
        )
        return loss("xla")(changed, viewmat)

    arguments = tuple(getattr(gaussians, name) for name in parts)
    check_grads(jax.jit(of), arguments, order=1, modes=["fwd", "rev"], rtol=1e-6, eps=1e-6)


def test_overflow_poisons_every_derivative():
    at, along = inputs()
    small = loss("xla", dataclasses.replace(CONFIG, capacity=4))
    # jit: nothing can be enlarged inside.
    first = jax.jit(lambda: jax.jvp(small, at, along))()
    assert np.isnan(first).all()
    second = jax.jit(lambda: jax.jvp(jax.grad(small), at, along))()
    assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(second))
    tangent = second[1]
    assert np.isnan(tangent.means).all() and np.isnan(tangent.opacities).all()


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_shard_map_agrees_with_one_device(mode):
    at, along = inputs()
    views = [jnp.stack([view, view + 0.1 * at[1]]) for view in (at[1], along[1])]
    mesh = Mesh(np.array(jax.devices()[:1]), ("views",))

    def total(backend, gaussians, viewmats):
        each = jax.vmap(loss(backend), (None, 0))
        return jnp.sum(each(gaussians, viewmats))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("views")), out_specs=P())
    def sharded(gaussians, viewmats):
        return jax.lax.psum(total("xla", gaussians, viewmats), "views")

    points, tangents = (at[0], views[0]), (along[0], views[1])
    actual = jax.jit(lambda: MODES[mode](sharded, points, tangents))()
    expected = MODES[mode](functools.partial(total, "reference"), points, tangents)
    close(actual, expected, 1e-10)


@pytest.mark.parametrize("name", ["clustered", "avatar", "adversarial"])
def test_median(name):
    gaussians, camera = scene(name)
    gaussians = dataclasses.replace(gaussians, opacities=jnp.minimum(gaussians.opacities * 3, 1))

    def medians(backend):
        def of(viewmat):
            view = dataclasses.replace(camera, viewmat=viewmat)
            projected = project(gaussians, view, CONFIG)
            return engine(backend).median(projected, camera.width, camera.height, CONFIG)

        return jax.jit(jax.vmap(of))(jnp.stack([camera.viewmat, camera.viewmat.at[0, 3].add(0.1)]))

    actual, expected = medians("xla"), medians("reference")
    assert actual.dtype == jnp.int32
    np.testing.assert_array_equal(actual, expected)
    assert len(np.unique(expected)) > 3 and expected.min() == -1


def test_median_shares_the_lists(optimised_jit):
    """The lists are sorted by one loop, whether or not there is a median."""
    gaussians, camera = scene()

    def loops(median_depth):
        draw = functools.partial(render, backend="xla", median_depth=median_depth)
        text = optimised_jit(draw).lower(gaussians, camera).compile().as_text()
        assert text is not None
        return text.count(" while(")

    assert loops(True) == loops(False) + 1
