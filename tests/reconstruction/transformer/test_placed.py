"""Points placed on a photo: what query points read of them, and how they are changed."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.reconstruction.transformer import (
    Changes,
    Crops,
    PhotoPoints,
    Reconstructor,
    apply_changes,
)
from jaxavatar.reconstruction.transformer.config import DinoConfig, TransformerConfig, VitConfig
from jaxavatar.reconstruction.transformer.gaussians import WeightDecoder
from jaxavatar.reconstruction.transformer.placed import PlacedDecoder, around_queries, interpolate
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes

QUERIES, PLACED, WIDTH = 12, 30, 16
SMALL = TransformerConfig(
    points=QUERIES,
    layers=1,
    width=WIDTH,
    heads=2,
    body=VitConfig((32, 48), 16, 0, 16, 1, 2),
    head=DinoConfig(14, 14, 16, 1, 2, 1, 3, (0,)),
    hand=VitConfig((8, 8), 8, 0, 8, 1, 2),
    decoder_width=8,
    placed=True,
    hand_branch=True,
    weight_decoder=True,
)


def apply(module: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Apply a module that returns no changed variables."""
    return module.apply(*arguments, **options)


def photo_points(rng, batch=2, count=PLACED, queries=QUERIES):
    """Points of every kind: seen or not, a third of them fixed; the last query has none near."""

    def array(values):
        return jnp.asarray(values, jnp.float32)

    nearest = [
        [rng.choice(queries - 1, 3, replace=False) for _ in range(count)] for _ in range(batch)
    ]
    reach = rng.choice([0.0, 0.01, 0.08], size=(batch, count))
    rays = rng.normal(size=(batch, count, 3))
    seen = rng.random((batch, count)) < 0.6
    return PhotoPoints(
        points=array(rng.normal(0, 0.5, (batch, count, 3))),
        colors=array(rng.uniform(size=(batch, count, 3))),
        seen=jnp.asarray(seen & (np.array(nearest)[:, :, 0] != 0)),
        shifts=array(rng.normal(0, 0.02, (batch, count, 3))),
        rays=array(rays / np.linalg.norm(rays, axis=-1, keepdims=True)),
        reach=array(reach),
        nearest=jnp.asarray(np.array(nearest), jnp.int32),
        shares=array(rng.dirichlet(np.ones(3), size=(batch, count))),
    )


def random_params(rng, config, size=1.0):
    made = {
        path: size * rng.normal(size=shape) / math.sqrt(max(1, math.prod(shape[:-1])))
        for path, shape in parameter_shapes(config).items()
    }
    made = {path: jnp.asarray(leaf, jnp.float32) for path, leaf in made.items()}
    return {"params": flax.traverse_util.unflatten_dict(made, sep="/")}


@pytest.fixture(scope="module")
def photo():
    return photo_points(np.random.default_rng(0))


@pytest.fixture(scope="module")
def person():
    """Query points and crops of two photos, and the template's weights at the placed points."""
    rng = np.random.default_rng(1)

    def uniform(*shape):
        return jnp.asarray(rng.uniform(size=shape), jnp.float32)

    crops = Crops(
        uniform(2, 32, 48, 3),
        uniform(2, 14, 14, 3),
        uniform(2, 2, 8, 8, 3),
        jnp.array([[True, True], [True, False]]),
    )
    template = jnp.asarray(rng.dirichlet(0.2 * np.ones(55), size=(2, PLACED)), jnp.float32)
    return uniform(2, QUERIES, 3), crops, template


@pytest.fixture(scope="module")
def params():
    return random_params(np.random.default_rng(2), SMALL)


@pytest.fixture(scope="module")
def change():
    """The whole model, compiled."""
    module = Reconstructor(SMALL)
    return jax.jit(lambda *arguments: apply(module, *arguments, method="change_placed"))


def test_around_queries_against_a_loop(photo):
    expected = np.zeros((2, QUERIES, 7))
    for b in range(2):
        for m in range(QUERIES):
            near = np.flatnonzero(np.asarray(photo.nearest[b, :, 0]) == m)
            seen = [n for n in near if photo.seen[b, n]]
            if seen:
                expected[b, m, :3] = np.mean([photo.colors[b, n] for n in seen], axis=0)
                expected[b, m, 3] = len(seen) / len(near)
                expected[b, m, 4:] = np.mean([50 * photo.shifts[b, n] for n in seen], axis=0)
    actual = around_queries(photo, QUERIES)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert not actual[:, [0, -1]].any()  # nothing seen there; nothing there at all
    assert (actual[:, :, 3] > 0).sum() > QUERIES


def test_interpolate_against_a_loop(photo):
    features = np.random.default_rng(3).normal(size=(2, QUERIES, 5)).astype(np.float32)
    expected = np.zeros((2, PLACED, 5))
    for b in range(2):
        for n in range(PLACED):
            for k in range(3):
                expected[b, n] += photo.shares[b, n, k] * features[b, photo.nearest[b, n, k]]
    np.testing.assert_allclose(interpolate(jnp.asarray(features), photo), expected, atol=1e-5)


def test_changes_stay_in_their_ranges(photo):
    """Even with parameters so large that everything saturates."""
    rng = np.random.default_rng(4)
    features = jnp.asarray(rng.normal(size=(2, QUERIES, WIDTH)), jnp.float32)
    module = PlacedDecoder(8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), features, photo)
    params = jax.tree.map(lambda p: jnp.asarray(9 * rng.normal(size=p.shape), jnp.float32), shapes)
    made: Any = jax.tree.map(np.asarray, apply(module, params, features, photo))
    reach, colors = np.asarray(photo.reach)[..., None], np.asarray(photo.colors)
    way = (made.shift * np.asarray(photo.rays)).sum(-1)
    np.testing.assert_allclose(made.shift, way[..., None] * np.asarray(photo.rays), atol=1e-7)
    assert (np.abs(way) <= reach[..., 0] + 1e-7).all() and np.abs(way).max() > 0.07
    assert way[~np.asarray(photo.seen)].min() >= 0 and way.min() < -0.005
    assert 0.6 < np.abs(made.growth).max() <= 0.7 + 1e-6
    assert 2.5 < np.abs(made.opacity).max() <= 3 + 1e-6
    assert made.colors.min() >= 0 and made.colors.max() <= 1
    seen, free = np.asarray(photo.seen), reach[..., 0] > 0
    off = np.abs(made.colors - colors).max(-1)
    assert 0.05 < off[seen].max() <= 0.1 + 1e-6
    assert off[~seen & free].max() > 0.5
    assert (~free).sum() > 10
    for change in (made.shift, made.growth, made.opacity[..., None], made.colors - colors):
        assert not change[~free].any()


def test_a_new_model_changes_little(photo, person):
    """It keeps the template's weights; sizes, opacities and seen colours stay nearly as placed."""
    features = jnp.asarray(np.random.default_rng(11).normal(size=(2, QUERIES, WIDTH)), jnp.float32)
    _, _, template = person
    key = jax.random.key(0)
    decoder, weight_decoder = PlacedDecoder(8), WeightDecoder(8)
    made: Any = decoder.init_with_output(key, features, photo)[0]
    weights: Any = weight_decoder.init_with_output(key, features, template, photo)[0]
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights, template, atol=1e-4)  # 55 times the smallest weight
    assert 0 < np.abs(made.growth).max() < 0.02 and np.abs(made.opacity).max() < 0.1
    seen = np.asarray(photo.seen)
    away = np.where(seen, 0.0, np.asarray(photo.reach) / (1 + np.exp(3)))
    shift = away[..., None] * np.asarray(photo.rays)
    np.testing.assert_allclose(made.shift, shift, atol=5e-4)
    assert np.abs(made.colors - photo.colors)[seen].max() < 0.01
    # Trust of 88 % in the painted colour, the rest is grey.
    trust = 1 / (1 + np.exp(-2))
    expected = trust * np.asarray(photo.colors) + (1 - trust) * 0.5
    guessed = ~seen & (np.asarray(photo.reach) > 0)
    np.testing.assert_allclose(np.asarray(made.colors)[guessed], expected[guessed], atol=0.01)


def test_applied_changes_and_what_is_invisible():
    rng = np.random.default_rng(5)
    means, scales = rng.normal(size=(20, 3)), rng.uniform(0.001, 0.02, (20, 3))
    opacities = rng.uniform(0.1, 0.95, 20)
    opacities[:5] = 0
    shift, growth, opacity = (rng.normal(size=size) for size in ((20, 3), (20, 3), 20))
    changes = Changes(shift, growth, opacity, None, None)  # pyright: ignore[reportArgumentType]
    placed = (jnp.asarray(x, jnp.float32) for x in (means, scales, opacities))
    made = apply_changes(*placed, changes=changes)
    odds = opacities / (1 - opacities) * np.exp(opacity)
    assert not np.asarray(made[2][:5]).any()
    for actual, expected in zip(made, (means + shift, scales * np.exp(growth)), strict=False):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(made[2], odds / (1 + odds), atol=1e-5)


def test_compiled_equals_eager(photo, person, params, change):
    """The decoders step by step, on features that were compiled without optimisations."""
    points, crops, template = person
    compiled = change(params, points, crops, photo, template)
    module = Reconstructor(SMALL)

    def features(crops):
        tokens = apply(module, params, crops, method="encode")
        return apply(module, params, points, tokens, photo, method="features")

    options: Any = {"xla_backend_optimization_level": 0}
    plain = jax.jit(features).lower(crops).compile(compiler_options=options)(crops)
    with jax.disable_jit():
        eager = apply(module, params, plain, photo, template, method="change")
    for name in ("shift", "growth", "opacity", "colors", "weights"):
        actual, expected = getattr(compiled, name), getattr(eager, name)
        np.testing.assert_allclose(actual, expected, atol=2e-5, err_msg=name)
    assert np.abs(compiled.growth).max() > 0.05
    np.testing.assert_allclose(compiled.weights.sum(-1), 1, rtol=1e-5)
    assert np.abs(compiled.weights - template).max() > 0.05


def test_the_order_of_points_does_not_matter(photo, person, params, change):
    points, crops, template = person
    order = np.random.default_rng(6).permutation(PLACED)
    before = change(params, points, crops, photo, template)
    shuffled = jax.tree.map(lambda leaf: leaf[:, order], photo)
    after = change(params, points, crops, shuffled, template[:, order])
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(b, a[:, order], atol=1e-5)


@pytest.mark.parametrize("count", [1, 47])
def test_any_number_of_points_is_decoded(photo, person, params, count):
    """Also others than those that the features read; each is decoded on its own."""
    rng = np.random.default_rng(7)
    features = jnp.asarray(rng.normal(size=(2, QUERIES, WIDTH)), jnp.float32)
    other, template = photo_points(rng, count=count), jnp.full((2, count, 55), 1 / 55)
    module = Reconstructor(SMALL)
    made = apply(module, params, features, other, template, method="change")
    assert made.shift.shape == made.colors.shape == (2, count, 3)
    assert made.weights.shape == (2, count, 55)
    first = jax.tree.map(lambda leaf: leaf[:, :1], (other, template))
    alone = apply(module, params, features, *first, method="change")
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[:, :1], b, atol=1e-5)


def test_only_what_the_photo_shows_reaches_other_points(photo, person, params, change):
    """A seen point's colour changes what becomes of all points, a guessed colour only its own."""
    points, crops, template = person

    def shifts(n):
        colors = photo.colors.at[0, n].set(0.3)
        shown = dataclasses.replace(photo, colors=colors)
        return np.asarray(change(params, points, crops, shown, template).shift)

    before = np.asarray(change(params, points, crops, photo, template).shift)
    free = np.asarray(photo.reach[0]) > 0
    for seen in (True, False):
        n = int(np.flatnonzero((np.asarray(photo.seen[0]) == seen) & free)[0])
        off = np.abs(shifts(n) - before).max(-1)
        assert off[0, n] > 1e-6
        others = np.delete(off[0], n)
        assert others.max() > 1e-7 if seen else not others.any()
        assert not off[1].any()


def test_model_needs_placed_points(person, params):
    points, crops, _ = person
    module = Reconstructor(SMALL)

    def features(crops):
        tokens = apply(module, params, crops, method="encode")
        return apply(module, params, points, tokens, method="features")

    with pytest.raises(ValueError, match="a model of placed points needs them"):
        jax.eval_shape(features, crops)


def test_without_hands_and_weights(photo, person):
    """Both flags off: no such parameters, the template's weights, and no need of hands."""
    points, crops, template = person
    config = dataclasses.replace(SMALL, hand_branch=False, weight_decoder=False)
    extra = set(parameter_shapes(SMALL)) - set(parameter_shapes(config))
    assert extra == {
        name for name in parameter_shapes(SMALL) if "hand" in name or "weight_" in name
    }
    params = random_params(np.random.default_rng(9), config)
    arguments = points, Crops(crops.body, crops.head), photo, template
    module = Reconstructor(config)
    made = jax.jit(lambda p: apply(module, p, *arguments, method="change_placed"))(params)
    np.testing.assert_array_equal(made.weights, template)
    assert np.isfinite(made.colors).all() and np.abs(made.shift).max() > 0


def test_gradients_in_float64():
    """Of the decoder and the weight decoder, along random directions, by central differences."""
    rng = np.random.default_rng(10)
    params = random_params(rng, SMALL)["params"]
    photo = photo_points(rng)
    # Far from the corners of the clip that keeps seen colours within [0, 1].
    photo = dataclasses.replace(photo, colors=0.2 + 0.6 * photo.colors)
    features = rng.normal(size=(2, QUERIES, WIDTH))
    template = rng.dirichlet(np.ones(55), size=(2, PLACED))
    with jax.enable_x64(True):
        photo, tuned, others = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64 if x.dtype == np.float32 else x.dtype),
            (
                photo,
                {name: params[name] for name in ("decoder", "weight_decoder")},
                {name: leaf for name, leaf in params.items() if "decoder" not in name},
            ),
        )
        module = Reconstructor(SMALL)
        cotangents: list[np.ndarray] = []

        @jax.jit
        def loss(tuned, features):
            variables = {"params": others | tuned}
            arguments = features, photo, jnp.asarray(template)
            made = apply(module, variables, *arguments, method="change")
            leaves = jax.tree.leaves(made)
            if not cotangents:
                cotangents.extend(rng.normal(size=leaf.shape) for leaf in leaves)
            assert all(leaf.dtype == jnp.float64 for leaf in leaves)
            return sum((c * leaf).sum() for c, leaf in zip(cotangents, leaves, strict=True))

        at = tuned, jnp.asarray(features)
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(*at)
        for _ in range(3):
            way = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), at)
            ends = [
                loss(*jax.tree.map(lambda x, d, s=sign: x + s * 1e-5 * d, at, way))
                for sign in (1, -1)
            ]
            pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(way), strict=True)
            expected = sum(float((g * d).sum()) for g, d in pairs)
            assert float(ends[0] - ends[1]) / 2e-5 == pytest.approx(expected, rel=1e-6)
        assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))
