"""The networks against NumPy in float64."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.reconstruction.transformer.blocks import BodyHeadTransformer, JointBlock
from jaxavatar.reconstruction.transformer.config import DinoConfig, VitConfig
from jaxavatar.reconstruction.transformer.dinov2 import DinoV2
from jaxavatar.reconstruction.transformer.embedding import PointEmbedding, merge
from jaxavatar.reconstruction.transformer.norms import RMSNorm, normalise
from jaxavatar.reconstruction.transformer.vit import VisionTransformer

WIDTH, HEADS, BODY_TOKENS, LAYERS = 16, 2, 12, 2


def apply(module: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Apply a module that returns no changed variables."""
    return module.apply(*arguments, **options)


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


def test_class_token_takes_part_in_attention(oracle, imported):
    """Under the names of MMPretrain, as Sapiens was pretrained."""
    config = VitConfig((16, 24), 8, 0, 12, 2, 3, class_token=True)
    rng = np.random.default_rng(7)
    extra = {"pos_embed": (1, 7, 12), "cls_token": (1, 1, 12)}
    extra |= {"patch_embed.projection.weight": (12, 3, 8, 8), "patch_embed.projection.bias": (12,)}
    extra |= {"ln1.weight": (12,), "ln1.bias": (12,)}
    w = oracle.random_weights(rng, vit_shapes(12, 2, extra))
    image = rng.uniform(size=(16, 24, 3))
    module, rows = VisionTransformer(config), jnp.asarray(image[None], jnp.float32)
    other = {"norm": "ln", "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"}
    named = {}
    for name, tensor in w.items():
        for ours, theirs in ({"blocks.": "layers."} | other).items():
            name = name.replace(ours, theirs)
        named[name] = tensor
    variables = imported(float32(named), "backbone.", "body_encoder/", module, rows, kind="sapiens")
    x = oracle.patches(
        w["patch_embed.projection.weight"],
        w["patch_embed.projection.bias"],
        (image - config.mean) / config.deviation,
        8,
    )
    x = np.concatenate([w["cls_token"][0], x]) + w["pos_embed"][0]
    for layer in range(2):
        x = oracle.vit_block(oracle.part(w, f"blocks.{layer}."), x, 3)
    expected = oracle.affine_norm(w, "ln1", x)[1:]
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


def test_merging_refuses_wider_heads():
    with pytest.raises(ValueError, match="head tokens have 5 channels, body tokens 4"):
        merge(jnp.zeros((1, 2, 4)), jnp.zeros((1, 2, 5)))
