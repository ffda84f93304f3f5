"""The networks reproduce reference outputs that were recorded from LHM's own modules.

Tolerances are the recordings': float32 rtol 1e-4, atol 2e-5 (1e-4 for whole networks, 5e-5 for the
point embedding); float64 rtol 1e-6, and atol 3e-7 because the recorded modules keep the root mean
squares and the resized positions in float32.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.reconstruction.transformer.blocks import (
    BodyHeadBlock,
    BodyHeadTransformer,
    FeedForward,
    JointBlock,
)
from jaxavatar.reconstruction.transformer.config import DinoConfig
from jaxavatar.reconstruction.transformer.dinov2 import DinoV2
from jaxavatar.reconstruction.transformer.embedding import (
    GlobalCode,
    PointEmbedding,
    fourier,
    merge,
)
from jaxavatar.reconstruction.transformer.gaussians import (
    DecoderNetwork,
    GaussianLayer,
    bounded_exp,
    scale_clip,
)
from jaxavatar.reconstruction.transformer.norms import Modulation, RMSNorm, modulate, normalise


def apply(module: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Apply a module that returns no changed variables."""
    return module.apply(*arguments, **options)


BLOCK = "transformer.layers.0.body_dit.", "transformer/block0/body/"
HEADS, BODY_TOKENS = 2, 4096


@pytest.fixture(params=["float32", "float64"])
def kind(request):
    """Whether to compute and compare in float32 or in float64."""
    if request.param == "float32":
        yield request.param
    else:
        with jax.enable_x64(True):
            yield request.param


def cast(kind, tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, kind), tree)


def same(actual, name, out, out64, kind="float32", atol=2e-5):
    if kind == "float32":
        np.testing.assert_allclose(actual, out[name], rtol=1e-4, atol=atol)
    elif name in out64:
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, out64[name], rtol=1e-6, atol=3e-7)


def test_rms_norm(reference):
    w, inputs, out, _ = reference("rms_norm")
    actual = apply(RMSNorm(), {"params": {"scale": w["weight"]}}, jnp.asarray(inputs["x"]))
    same(actual, "y", out, {})


def modulation(w, parts, code):
    params = {"linear": {"kernel": w["linear.weight"].T, "bias": w["linear.bias"]}}
    return apply(Modulation(parts), {"params": params}, jnp.asarray(code))


def test_adaptive_norm(reference):
    w, inputs, out, _ = reference("ada_layer_norm_zero")
    shift, scale, *others = modulation(w, 6, inputs["temb"])
    same(modulate(normalise(jnp.asarray(inputs["x"])), shift, scale), "x_norm", out, {})
    names = ("gate_msa", "shift_mlp", "scale_mlp", "gate_mlp")
    for name, actual in zip(names, others, strict=True):
        same(actual, name, out, {})


def test_adaptive_norm_of_the_last_context(reference):
    w, inputs, out, _ = reference("ada_layer_norm_continuous")
    scale, shift = modulation(w, 2, inputs["temb"])
    same(modulate(normalise(jnp.asarray(inputs["x"])), shift, scale), "x_norm", out, {})


def test_feed_forward(reference, imported):
    w, inputs, out, _ = reference("feed_forward")
    names, path = (
        f"{part}{end}" for part, end in zip(BLOCK, ("ff.", "feed_forward/"), strict=True)
    )
    variables = imported(w, names, path, FeedForward(), inputs["x"])
    same(apply(FeedForward(), variables, inputs["x"]), "y", out, {})


@pytest.mark.parametrize("last", [False, True])
def test_joint_block(reference, imported, kind, last):
    w, inputs, out, out64 = reference("mm_block_context_pre_only" if last else "mm_block")
    module = JointBlock(HEADS, last)
    arguments = cast(kind, [inputs[k] for k in ("hidden_states", "encoder_hidden_states", "temb")])
    variables = imported(cast(kind, w), *BLOCK, module, *arguments)
    x, context = apply(module, variables, *arguments)
    same(x, "hidden_states", out, out64, kind)
    if not last:
        same(context, "encoder_hidden_states", out, out64, kind)


def test_body_head_block(reference, imported, kind):
    w, inputs, out, out64 = reference("bh_block")
    module = BodyHeadBlock(HEADS, BODY_TOKENS)
    arguments = cast(kind, [inputs[k] for k in ("hidden_states", "encoder_hidden_states", "temb")])
    variables = imported(
        cast(kind, w), "transformer.layers.0.", "transformer/block0/", module, *arguments
    )
    x, context = jax.jit(module.apply)(variables, *arguments)
    same(x, "hidden_states", out, out64, kind)
    same(context, "encoder_hidden_states", out, out64, kind)


def test_transformer(reference, imported, kind):
    w, inputs, out, out64 = reference("transformer_decoder")
    module = BodyHeadTransformer(3, HEADS, BODY_TOKENS)
    arguments = cast(kind, [inputs[k] for k in ("x", "cond", "temb")])
    variables = imported(cast(kind, w), "transformer.", "transformer/", module, *arguments)
    same(jax.jit(module.apply)(variables, *arguments), "y", out, out64, kind, atol=1e-4)


def test_point_embedding(reference, imported, kind):
    w, inputs, out, out64 = reference("point_embed")
    points = jnp.asarray(inputs["points"], kind)
    module = PointEmbedding(32)
    variables = imported(cast(kind, w), "pcl_embed.", "point_embedding/", module, points)
    same(apply(module, variables, points), "embed", out, out64, kind, atol=5e-5)
    same(fourier(points), "fourier", out, out64, kind, atol=5e-5)


def test_global_code_and_context(reference, imported):
    w, inputs, out, _ = reference("motion_embed")
    module, body = GlobalCode(32), jnp.asarray(inputs["body_feats"])
    variables = imported(w, "motion_embed_mlp.", "global_code/", module, body)
    same(apply(module, variables, body), "motion_embed", out, {})
    same(merge(body, jnp.asarray(inputs["head_feats"])), "merged_tokens", out, {})


def test_dinov2(reference, imported, kind):
    w, inputs, out, out64 = reference("dinov2_tiny_reg")
    config = DinoConfig(width=32, depth=6, heads=2, taken=(1, 2, 4, 5))
    module = DinoV2(config)
    image = jnp.asarray(inputs["image"].transpose(0, 2, 3, 1), kind)
    variables = imported(cast(kind, w), "", "head_encoder/dino/", module, image, kind="dinov2")
    depths = jax.jit(module.apply)(variables, image)
    for k, tokens in enumerate(depths):
        same(tokens[:, 0], f"cls{k}", out, out64, kind, atol=1e-4)
        same(tokens[:, 5:], f"feat{k}", out, out64, kind, atol=1e-4)
    same(depths[-1][:, 1:5], "x_norm_regtokens", out, out64, kind, atol=1e-4)
    same(depths[-1][:, 5:], "x_norm_patchtokens", out, out64, kind, atol=1e-4)
    embedded = apply(module, variables, image, method="embed")
    same(embedded, "tokens_after_embed", out, out64, kind, atol=1e-4)
    places = apply(module, variables, 32, 32, method="places")
    same(places[None], "pos_embed_448", out, out64, kind, atol=1e-4)


def test_decoder_network(reference, imported, kind):
    w, inputs, out, out64 = reference("gs_mlp_net")
    module, x = DecoderNetwork(24), jnp.asarray(inputs["x"], kind)
    variables = imported(cast(kind, w), "renderer.mlp_net.", "decoder/", module, x)
    same(apply(module, variables, x), "y", out, out64, kind)


@pytest.mark.parametrize(
    ("name", "degree", "step"),
    [("rgb_step0", None, 0), ("rgb_step1550", None, 1550), ("sh3", 3, 3001)],
)
def test_gaussian_layer(reference, imported, name, degree, step):
    w, inputs, out, _ = reference(f"gs_layer_{name}")
    module = GaussianLayer(degree)
    x, points = (jnp.asarray(inputs[key])[None] for key in ("x", "pts"))
    w = {key: tensor for key, tensor in w.items() if not key.startswith("init/")}
    variables = imported(w, "renderer.gs_net.", "gaussians/", module, x, points)
    gaussians = apply(module, variables, x, points, scale_clip(step), inputs.get("is_upper_body"))
    same(gaussians.offsets[0], "offset_xyz", out, {})
    np.testing.assert_allclose(gaussians.means[0], inputs["pts"] + out["offset_xyz"], atol=2e-5)
    same(gaussians.opacities[0, :, None], "opacity", out, {})
    same(gaussians.quats[0], "rotation", out, {})
    same(gaussians.scales[0], "scaling", out, {})
    same(gaussians.colors.reshape(40, -1, 3), "shs", out, {})


def test_clip_schedule(reference):
    _, inputs, out, _ = reference("linear_parameter_tuner")
    actual = [scale_clip(int(step)) for step in inputs["step"]]
    np.testing.assert_allclose(actual, out["value"], rtol=1e-5)


def test_bounded_exp(reference):
    _, inputs, out, _ = reference("trunc_exp")
    x = jnp.asarray(inputs["x"])
    same(bounded_exp(x), "y", out, {})
    same(jax.vmap(jax.grad(bounded_exp))(x), "dydx", out, {})
