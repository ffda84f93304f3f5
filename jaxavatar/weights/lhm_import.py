r"""Released checkpoints of LHM and of its encoders, as parameters of our transformer.

LHM's weights are CC BY-NC 4.0: not for commercial use. Its checkpoints carry about a gigabyte of
buffers of SMPL-X, which has a licence of its own; they are left out. DINOv2's names are those of
its authors' release, with or without LHM's prefix. HaMeR's backbone is ViTPose's ViT-H, whose
unused class position is added to every patch's.
"""

import os
from collections.abc import Mapping
from typing import Any

from jaxavatar.errors import InputError
from jaxavatar.weights.tensor_file import SafetensorsFile
from jaxavatar.weights.torch_names import ImportReport, Rule, Skip, convert

LHM_LICENCE = "CC-BY-NC-4.0"


def _dino(prefix: str, target: str) -> tuple[Rule, ...]:
    block = rf"{prefix}blocks\.(\d+)\."
    mine = rf"{target}block_\1/"
    return (
        Rule(rf"{prefix}cls_token", f"{target}class_token", "tensor"),
        Rule(rf"{prefix}pos_embed", f"{target}positions", "tensor"),
        Rule(rf"{prefix}register_tokens", f"{target}registers", "tensor"),
        Rule(rf"{prefix}patch_embed\.proj", f"{target}patches", "conv"),
        *_vit_block(block, mine),
        Rule(rf"{block}ls1\.gamma", f"{mine}attention_scale", "tensor"),
        Rule(rf"{block}ls2\.gamma", f"{mine}feed_forward_scale", "tensor"),
        Rule(rf"{prefix}norm", f"{target}norm", "norm"),
    )


def _vit_block(block: str, mine: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{block}norm1", f"{mine}attention_norm", "norm"),
        Rule(rf"{block}attn\.qkv", f"{mine}qkv", "linear"),
        Rule(rf"{block}attn\.proj", f"{mine}out", "linear"),
        Rule(rf"{block}norm2", f"{mine}feed_forward_norm", "norm"),
        Rule(rf"{block}mlp\.fc1", f"{mine}up", "linear"),
        Rule(rf"{block}mlp\.fc2", f"{mine}down", "linear"),
    )


def _joint_block(block: str, mine: str) -> tuple[Rule, ...]:
    linear = {
        r"norm1\.linear": "modulation/linear",
        r"norm1_context\.linear": "context_modulation/linear",
        r"attn\.to_q": "attention/query",
        r"attn\.to_k": "attention/key",
        r"attn\.to_v": "attention/value",
        r"attn\.add_q_proj": "attention/context_query",
        r"attn\.add_k_proj": "attention/context_key",
        r"attn\.add_v_proj": "attention/context_value",
        r"attn\.to_out\.0": "attention/out",
        r"attn\.to_add_out": "attention/context_out",
        r"ff\.net\.0\.proj": "feed_forward/up",
        r"ff\.net\.2": "feed_forward/down",
        r"ff_context\.net\.0\.proj": "context_feed_forward/up",
        r"ff_context\.net\.2": "context_feed_forward/down",
    }
    norms = {
        r"attn\.norm_q": "attention/query_norm",
        r"attn\.norm_k": "attention/key_norm",
        r"attn\.norm_added_q": "attention/context_query_norm",
        r"attn\.norm_added_k": "attention/context_key_norm",
    }
    return (
        *(Rule(block + name, mine + target, "linear") for name, target in linear.items()),
        *(Rule(block + name, mine + target, "norm") for name, target in norms.items()),
    )


LHM_RULES = (
    *_joint_block(r"transformer\.layers\.(\d+)\.(head|body)_dit\.", r"transformer/block\1/\2/"),
    Rule(r"transformer\.linear_cond_proj", "transformer/context_in", "linear"),
    Rule(r"transformer\.norm", "transformer/norm", "norm"),
    Rule(r"pcl_embed\.mlp", "point_embedding/linear", "linear"),
    Rule(r"pcl_embed\.norm", "point_embedding/norm", "norm"),
    Rule(r"motion_embed_mlp\.0", "global_code/in", "linear"),
    Rule(r"motion_embed_mlp\.2", "global_code/out", "linear"),
    Rule(r"renderer\.mlp_net\.layers\.0", "decoder/hidden0", "linear"),
    Rule(r"renderer\.mlp_net\.layers\.2", "decoder/hidden1", "linear"),
    Rule(r"renderer\.mlp_net\.layers\.4", "decoder/out", "linear"),
    Rule(r"renderer\.gs_net\.out_layers\.shs", "gaussians/color", "linear"),
    Rule(r"renderer\.gs_net\.out_layers\.scaling", "gaussians/scale", "linear"),
    Rule(r"renderer\.gs_net\.out_layers\.xyz", "gaussians/offset", "linear"),
    Rule(r"renderer\.gs_net\.out_layers\.(opacity|rotation)", r"gaussians/\1", "linear"),
    *_dino(r"encoder\.model\.", "head_encoder/dino/"),
    Rule(r"encoder\.fusion_head\.projects\.(\d+)", r"head_encoder/depth\1", "pointwise"),
    Rule(r"encoder\.fusion_head\.output_conv", "head_encoder/fuse", "pointwise"),
)
LHM_SKIPS = (
    Skip(r"renderer\.smplx_model\..*", "SMPL-X and tables made from it, under its own licence"),
    Skip(r"pcl_embed\.basis", "constant, computed anew"),
    Skip(r"(fine_encoder|id_face_net)\..*", "another network's weights"),
    Skip(r"encoder\.model\.mask_token", "only used to train DINOv2"),
)

DINO_RULES = _dino("", "head_encoder/dino/")
DINO_SKIPS = (Skip("mask_token", "only used to train DINOv2"),)

HAMER_RULES = (
    Rule(r"backbone\.pos_embed", "hand_encoder/positions", "positions"),
    Rule(r"backbone\.patch_embed\.proj", "hand_encoder/patches", "conv"),
    *_vit_block(r"backbone\.blocks\.(\d+)\.", r"hand_encoder/block\1/"),
    Rule(r"backbone\.last_norm", "hand_encoder/norm", "norm"),
)
HAMER_SKIPS = (
    Skip(r"mano\..*", "MANO, under its own licence"),
    Skip(r"(mano_head|discriminator)\..*", "the decoder of hand poses and its training"),
)

_TABLES = {
    "lhm": (LHM_RULES, LHM_SKIPS),
    "dinov2": (DINO_RULES, DINO_SKIPS),
    "hamer": (HAMER_RULES, HAMER_SKIPS),
}


def read_released(
    path: str | os.PathLike[str], kind: str, expected: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Any], ImportReport]:
    """Read a released checkpoint.

    Args:
        path: safetensors file.
        kind: "lhm", "dinov2" or "hamer".
        expected: shape of every parameter of the model by its path, joined by "/".

    Returns:
        Nested dict of the parameters that were found, as NumPy arrays, and the report. Parameters
        of other parts of the model count as missing.

    Raises:
        InputError: no such file or kind, or a tensor of another shape than the model's.
    """
    return arrange_released(SafetensorsFile(path), kind, expected)


def arrange_released(
    tensors: Mapping[str, Any], kind: str, expected: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Any], ImportReport]:
    """Do what `read_released` does for tensors by name.

    Raises:
        InputError: no such kind, or a tensor of another shape than the model's.
    """
    if kind not in _TABLES:
        raise InputError(f"unknown checkpoint {kind!r}; known are {', '.join(_TABLES)}")
    rules, skips = _TABLES[kind]
    return convert(tensors, rules, skips, expected)
