"""The networks against NumPy in float64, their options, and the model as a whole."""

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
from jaxavatar.reconstruction.transformer.blocks import BodyHeadTransformer, JointBlock
from jaxavatar.reconstruction.transformer.config import DinoConfig, TransformerConfig, VitConfig
from jaxavatar.reconstruction.transformer.dinov2 import DinoV2
from jaxavatar.reconstruction.transformer.embedding import PointEmbedding, merge
from jaxavatar.reconstruction.transformer.gaussians import (
    GaussianLayer,
    WeightDecoder,
    bounded_exp,
    scale_clip,
)
from jaxavatar.reconstruction.transformer.norms import RMSNorm, normalise
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.reconstruction.transformer.vit import VisionTransformer


def apply(module: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Apply a module that returns no changed variables."""
    return module.apply(*arguments, **options)


WIDTH, HEADS, BODY_TOKENS, LAYERS = 16, 2, 12, 2
SMALL = TransformerConfig(
    points=20,
    layers=LAYERS,
    width=WIDTH,
    heads=HEADS,
    body=VitConfig((48, 64), 16, 0, 24, 1, 2),
    head=DinoConfig(14, 14, 16, 1, 2, 1, 3, (0,)),
    hand=VitConfig((16, 16), 8, 0, 8, 1, 2),
    decoder_width=8,
    hand_branch=True,
    weight_decoder=True,
)


def block_shapes(width, last):
    """Return the shapes of a joint block's tensors under their original names."""
    linear = {"attn.to_q": 1, "attn.to_k": 1, "attn.to_v": 1, "attn.to_out.0": 1, "norm1.linear": 6}
    linear |= {"attn.add_q_proj": 1, "attn.add_k_proj": 1, "attn.add_v_proj": 1}
    linear |= {"norm1_context.linear": 2 if last else 6} | ({} if last else {"attn.to_add_out": 1})
    shapes = {name: (times * width, width) for name, times in linear.items()}
    for name in ("ff",) if last else ("ff", "ff_context"):
        shapes |= {f"{name}.net.0.proj": (4 * width, width), f"{name}.net.2": (width, 4 * width)}
    shapes = {f"{name}.weight": shape for name, shape in shapes.items()} | {
        f"{name}.bias": shape[:1] for name, shape in shapes.items()
    }
    for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        shapes[f"attn.{name}.weight"] = (width // HEADS,)
    return shapes


def transformer_shapes(width, context):
    shapes = {"linear_cond_proj.weight": (width, context), "linear_cond_proj.bias": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    for layer in range(LAYERS):
        for part in ("head_dit", "body_dit"):
            block = block_shapes(width, layer == LAYERS - 1)
            shapes |= {f"layers.{layer}.{part}.{name}": shape for name, shape in block.items()}
    return shapes


def float32(tensors):
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def stack(oracle, imported):
    """A stack of blocks with its inputs, and what the oracle makes of them."""
    rng = np.random.default_rng(1)
    w = oracle.random_weights(rng, transformer_shapes(WIDTH, 24))
    x, context = rng.normal(size=(2, 21, WIDTH)), rng.normal(size=(2, BODY_TOKENS + 5, 24))
    code = rng.normal(size=(2, 2 * WIDTH))
    arguments = [jnp.asarray(a, jnp.float32) for a in (x, context, code)]
    module = BodyHeadTransformer(LAYERS, HEADS, BODY_TOKENS)
    variables = imported(float32(w), "transformer.", "transformer/", module, *arguments)
    expected = [
        oracle.transformer(w, *row, HEADS, BODY_TOKENS, LAYERS)
        for row in zip(x, context, code, strict=True)
    ]
    return variables, arguments, np.stack(expected)


def test_transformer_matches_numpy(stack):
    variables, arguments, expected = stack
    actual = jax.jit(BodyHeadTransformer(LAYERS, HEADS, BODY_TOKENS).apply)(variables, *arguments)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_is_near(stack):
    """bfloat16 has 8 bits: errors of one per cent of features that have variance 1."""
    variables, arguments, expected = stack
    module = BodyHeadTransformer(LAYERS, HEADS, BODY_TOKENS, dtype=jnp.bfloat16)
    actual = jax.jit(module.apply)(variables, *arguments)
    assert actual.dtype == jnp.float32
    assert np.sqrt(np.mean((actual - expected) ** 2)) < 0.03


def test_hands_are_further_keys_and_values(oracle, imported):
    """K = [K_fb || K_hand], V = [V_fb || V_hand], with projections of their own."""
    rng = np.random.default_rng(2)
    x, context, hands = (rng.normal(size=(n, WIDTH)) for n in (9, 7, 4))
    code = rng.normal(size=WIDTH)
    module = JointBlock(HEADS)
    w = oracle.random_weights(rng, block_shapes(WIDTH, False))
    rows = [jnp.asarray(a[None], jnp.float32) for a in (x, context, code, hands)]
    names = "transformer.layers.0.body_dit.", "transformer/block0/body/"
    params = imported(float32(w), *names, module, *rows[:3])["params"]
    kernels = {name: rng.normal(size=(WIDTH, WIDTH)) / 4 for name in ("hand_key", "hand_value")}
    bias, scale = rng.normal(size=WIDTH), rng.normal(size=WIDTH // HEADS)
    params["attention"] |= {
        name: {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
        for name, kernel in kernels.items()
    }
    params["attention"]["hand_key_norm"] = {"scale": jnp.asarray(scale, jnp.float32)}
    actual = apply(module, {"params": params}, *rows)
    extra = [hands @ kernel + bias for kernel in kernels.values()]
    expected = oracle.joint_block(
        w | {"hand_key_norm": scale}, x, context, code, HEADS, False, extra
    )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-4)


def test_point_embedding_matches_numpy(oracle, imported):
    rng = np.random.default_rng(3)
    shapes = {"mlp.weight": (WIDTH, 51), "mlp.bias": (WIDTH,)}
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    w, points = oracle.random_weights(rng, shapes), rng.uniform(-1, 1, (1, 11, 3))
    rows, module = jnp.asarray(points, jnp.float32), PointEmbedding(WIDTH)
    variables = imported(float32(w), "pcl_embed.", "point_embedding/", module, rows)
    expected = oracle.point_embedding(w, points[0].astype(np.float32))
    np.testing.assert_allclose(apply(module, variables, rows)[0], expected, atol=2e-4)


def test_norms_keep_the_digits_of_nearly_constant_tokens():
    """The variance is a millionth of the mean's square; float32 has seven digits."""
    rng = np.random.default_rng(4)
    x = 10 + 0.01 * rng.normal(size=(6, 32))
    x = x.astype(np.float32)
    exact = x.astype(float)
    deviation = np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    expected = (exact - exact.mean(-1, keepdims=True)) / deviation
    np.testing.assert_allclose(normalise(jnp.asarray(x)), expected, atol=1e-3)
    tiny = 1e-3 * rng.normal(size=(6, 32)).astype(np.float32)  # mean square about epsilon
    actual = apply(RMSNorm(), {"params": {"scale": jnp.ones(32)}}, jnp.asarray(tiny))
    expected = tiny / np.sqrt((tiny.astype(float) ** 2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def vit_shapes(width, depth, extra):
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    shapes = dict(extra)
    for layer in range(depth):
        for name, shape in linear.items():
            shapes[f"blocks.{layer}.{name}.weight"] = shape
            shapes[f"blocks.{layer}.{name}.bias"] = shape[:1]
        for name in ("norm1", "norm2"):
            shapes[f"blocks.{layer}.{name}.weight"] = shapes[f"blocks.{layer}.{name}.bias"] = (
                width,
            )
    return shapes


def test_vision_transformer_matches_numpy(oracle, imported):
    """Under the names of ViTPose, whose class position is added to all others."""
    config = VitConfig((16, 24), 8, 2, 12, 2, 3)
    rng = np.random.default_rng(5)
    extra = {"pos_embed": (1, 7, 12), "patch_embed.proj.weight": (12, 3, 8, 8)}
    extra |= {"patch_embed.proj.bias": (12,), "last_norm.weight": (12,), "last_norm.bias": (12,)}
    w = oracle.random_weights(rng, vit_shapes(12, 2, extra))
    image = rng.uniform(size=(16, 24, 3))
    module, rows = VisionTransformer(config), jnp.asarray(image[None], jnp.float32)
    variables = imported(float32(w), "backbone.", "hand_encoder/", module, rows, kind="hamer")
    expected = (image - config.mean) / config.deviation
    expected = oracle.patches(
        w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], expected, 8, padding=2
    )
    expected = expected + w["pos_embed"][0, 1:] + w["pos_embed"][0, 0]
    for layer in range(2):
        expected = oracle.vit_block(oracle.part(w, f"blocks.{layer}."), expected, 3)
    expected = oracle.affine_norm(w, "last_norm", expected)
    np.testing.assert_allclose(apply(module, variables, rows)[0], expected, rtol=1e-4, atol=1e-4)


def test_dinov2_matches_numpy(oracle, imported):
    """At the size of the trained positions, where they need no resizing."""
    config = DinoConfig(28, 14, 12, 2, 3, 2, 2, (0, 1))
    rng = np.random.default_rng(6)
    extra = {"cls_token": (1, 1, 12), "pos_embed": (1, 5, 12), "register_tokens": (1, 2, 12)}
    extra |= {"patch_embed.proj.weight": (12, 3, 14, 14), "patch_embed.proj.bias": (12,)}
    extra |= {"norm.weight": (12,), "norm.bias": (12,)}
    extra |= {f"blocks.{b}.ls{k}.gamma": (12,) for b in range(2) for k in (1, 2)}
    w = oracle.random_weights(rng, vit_shapes(12, 2, extra))
    image = rng.uniform(size=(28, 28, 3))
    module, rows = DinoV2(config), jnp.asarray(image[None], jnp.float32)
    variables = imported(float32(w), "", "head_encoder/dino/", module, rows, kind="dinov2")
    cut = oracle.patches(w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], image, 14)
    x = np.concatenate([w["cls_token"][0], cut]) + w["pos_embed"][0]
    x = np.concatenate([x[:1], w["register_tokens"][0], x[1:]])
    for layer, actual in enumerate(apply(module, variables, rows)):
        x = oracle.vit_block(oracle.part(w, f"blocks.{layer}."), x, 3)
        expected = oracle.affine_norm(w, "norm", x)
        np.testing.assert_allclose(actual[0], expected, rtol=1e-4, atol=1e-4)


def test_gaussians_of_a_new_layer():
    rng = np.random.default_rng(7)
    x, points = jnp.asarray(rng.normal(size=(1, 9, WIDTH))), jnp.asarray(rng.normal(size=(1, 9, 3)))
    for degree, shape in ((None, (1, 9, 3)), (2, (1, 9, 9, 3))):
        made, _ = GaussianLayer(degree).init_with_output(jax.random.key(0), x, points)
        assert made.colors.shape == shape
        np.testing.assert_allclose(made.means, points)
        np.testing.assert_allclose(made.scales, np.exp(-5), rtol=1e-5)
        np.testing.assert_allclose(made.opacities, 0.1, rtol=1e-5)
        np.testing.assert_allclose(made.quats, np.tile([1.0, 0, 0, 0], (1, 9, 1)))


def test_gaussians_stay_in_their_ranges():
    rng = np.random.default_rng(8)
    x, points = 30 * rng.normal(size=(1, 50, WIDTH)), np.zeros((1, 50, 3))
    upper = np.arange(50) < 20
    module = GaussianLayer()
    params = module.init(jax.random.key(0), x, points)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    made = apply(module, params, jnp.asarray(x), points, scale_clip(2000), upper)
    bound = 0.01 + 0.04 * 1900 / 2900
    assert made.scales[:, 20:].max() == pytest.approx(bound, rel=1e-5)
    assert made.scales[:, :20].max() == pytest.approx(0.02, rel=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(made.quats, axis=-1), 1, rtol=1e-5)
    assert np.abs(made.offsets).max() <= 0.5 and np.abs(made.offsets).max() > 0.49
    assert made.colors.min() >= 0 and made.colors.max() <= 1


@pytest.mark.parametrize("step", [0, 100, 1550, 3000, 10**7])
def test_clip_schedule(step):
    expected = np.interp(step, [100, 3000], [0.01, 0.05])
    assert scale_clip(step) == pytest.approx(expected, rel=1e-5)


def test_derivative_of_exp_is_bounded():
    assert bounded_exp(jnp.array(20.0)) == pytest.approx(np.exp(20), rel=1e-5)
    assert jax.grad(bounded_exp)(20.0) == pytest.approx(np.exp(15), rel=1e-5)
    assert jax.grad(bounded_exp)(2.0) == pytest.approx(np.exp(2), rel=1e-5)


def test_weight_decoder():
    rng = np.random.default_rng(9)
    template = rng.dirichlet(0.2 * np.ones(55), size=30).astype(np.float32)
    x = jnp.asarray(rng.normal(size=(1, 30, WIDTH)), jnp.float32)
    module = WeightDecoder(8)
    initial: Any = module.init_with_output(jax.random.key(0), x, template)
    weights, params = initial
    np.testing.assert_allclose(weights[0], template, atol=1e-4)  # 55 times the smallest weight
    params["params"]["out"]["bias"] = jnp.asarray(rng.normal(size=55), jnp.float32)
    expected = (template + 1e-6) * np.exp(params["params"]["out"]["bias"])
    actual = apply(module, params, x, template)[0]
    np.testing.assert_allclose(actual, expected / expected.sum(1, keepdims=True), rtol=1e-4)


def test_merging_refuses_wider_heads():
    with pytest.raises(ValueError, match="head tokens have 5 channels, body tokens 4"):
        merge(jnp.zeros((1, 2, 4)), jnp.zeros((1, 2, 5)))


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
