"""The whole model: its parts, its flags, its derivatives."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.reconstruction.transformer import CONFIGS, Crops, ImageTokens, Reconstructor
from jaxavatar.reconstruction.transformer.config import DinoConfig, TransformerConfig, VitConfig
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes

WIDTH = 16
SMALL = TransformerConfig(
    points=20,
    layers=2,
    width=WIDTH,
    heads=2,
    body=VitConfig((48, 64), 16, 0, 24, 1, 2),
    head=DinoConfig(14, 14, 16, 1, 2, 1, 3, (0,)),
    hand=VitConfig((16, 16), 8, 0, 8, 1, 2),
    decoder_width=8,
    hand_branch=True,
    weight_decoder=True,
)


def apply(module: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Apply a module that returns no changed variables."""
    return module.apply(*arguments, **options)


def random_params(rng, config):
    shapes = parameter_shapes(config)
    made = {
        path: rng.normal(size=shape) / (3 if len(shape) < 2 else math.sqrt(math.prod(shape[:-1])))
        + (path.endswith("scale"))
        for path, shape in shapes.items()
    }
    made = {path: jnp.asarray(leaf, jnp.float32) for path, leaf in made.items()}
    return {"params": flax.traverse_util.unflatten_dict(made, sep="/")}


@pytest.fixture(scope="module")
def person():
    rng = np.random.default_rng(10)

    def uniform(*shape):
        return jnp.asarray(rng.uniform(size=shape), jnp.float32)

    crops = Crops(
        uniform(2, 48, 64, 3),
        uniform(2, 14, 14, 3),
        uniform(2, 2, 16, 16, 3),
        jnp.array([[True, True], [True, False]]),
    )
    template = jnp.asarray(rng.dirichlet(np.ones(55), size=20), jnp.float32)
    return uniform(2, 20, 3), crops, template


@pytest.fixture(scope="module")
def model():
    """Parameters of the whole small model."""
    return random_params(np.random.default_rng(11), SMALL)


@pytest.fixture(scope="module")
def reconstruct(person, model):
    """The whole small model, compiled, as a function of the crops."""
    points, _, template = person
    module = Reconstructor(SMALL)
    return jax.jit(lambda c: apply(module, model, points, c, template_weights=template))


def test_model_decodes_what_it_encodes(person, model, reconstruct):
    points, crops, template = person
    whole = reconstruct(crops)
    module = Reconstructor(SMALL)
    tokens = apply(module, model, crops, method="encode")
    assert isinstance(tokens, ImageTokens)
    features = apply(module, model, points, tokens, method="features")
    assert features.shape == (2, 20, WIDTH)
    parts = apply(module, model, points, features, template_weights=template, method="decode")
    for a, b in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(whole.weights.sum(-1), 1, rtol=1e-5)


def test_hand_branch_reads_only_hands_that_are_seen(person, reconstruct):
    _, crops, _ = person

    def means(hands):
        return reconstruct(dataclasses.replace(crops, hands=hands)).means

    before = means(crops.hands)
    np.testing.assert_allclose(means(crops.hands.at[1, 1].set(0.0)), before, atol=1e-6)
    assert np.abs(means(crops.hands.at[1, 0].set(0.0)) - before)[1].max() > 1e-5


def test_without_hands_and_weights(person, model):
    """Both flags off: no such parameters, the template's weights, and no need of hands."""
    points, _, template = person
    config = dataclasses.replace(SMALL, hand_branch=False, weight_decoder=False)
    names = {path for path in parameter_shapes(SMALL) if "hand" in path or "weight_" in path}
    assert names == set(parameter_shapes(SMALL)) - set(parameter_shapes(config))
    params = random_params(np.random.default_rng(13), config)
    bare = ImageTokens(jnp.ones((2, 12, 24)), jnp.ones((2, 1, 16)))
    module = Reconstructor(config)
    made = apply(module, params, points, bare, template_weights=template, method="reconstruct")
    np.testing.assert_array_equal(made.weights[1], template)


def test_model_names_what_it_lacks(person, model):
    points, crops, _ = person
    module = Reconstructor(SMALL)
    with pytest.raises(ValueError, match="needs hand crops"):
        apply(module, model, Crops(crops.body, crops.head), method="encode")
    bare = ImageTokens(jnp.ones((2, 12, 24)), jnp.ones((2, 1, 16)))
    with pytest.raises(ValueError, match="needs hand tokens"):
        apply(module, model, points, bare, method="features")
    with pytest.raises(ValueError, match="needs the template's weights"):
        apply(module, model, points, jnp.ones((2, 20, WIDTH)), method="decode")
    with pytest.raises(ValueError, match="11 body tokens, expected 12"):
        short = dataclasses.replace(bare, body=bare.body[:, 1:])
        apply(module, model, points, short, method="features")


def test_gradients(person, model):
    """They reach every parameter, and agree with differences; blocks are recomputed."""
    points, crops, template = person
    rng = np.random.default_rng(12)
    module = Reconstructor(dataclasses.replace(SMALL, remat=True))
    shapes = jax.eval_shape(lambda: apply(module, model, points, crops, template_weights=template))
    weight = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), model)

    @jax.jit
    def loss(variables):
        made = apply(module, variables, points, crops, clip=1e3, template_weights=template)
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: (a * b).sum(), made, weight)))

    gradients = jax.jit(jax.grad(loss))(model)
    flat = jax.tree_util.tree_flatten_with_path(gradients)[0]
    blank = [jax.tree_util.keystr(path) for path, g in flat if not np.abs(g).max() > 0]
    # Nothing reads what the last block's context would take.
    assert all("['block1']" in name and "['context_query" in name for name in blank)

    def moved(step):
        return float(loss(jax.tree.map(lambda p, d: p + step * d, model, direction)))

    pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
    expected = sum(float((g * d).sum()) for g, d in pairs)
    assert (moved(1e-4) - moved(-1e-4)) / 2e-4 == pytest.approx(expected, rel=0.03)


def test_configurations():
    assert CONFIGS["500m"].body.tokens == 4096 and CONFIGS["500m"].head.tokens == 1024
    assert CONFIGS["hand++"].hand.tokens == 192
    assert dataclasses.replace(CONFIGS["tiny"], precision="bfloat16").dtype == jnp.bfloat16
    for config in CONFIGS.values():
        assert config.width % config.heads == 0 and config.head.width <= config.body.width
