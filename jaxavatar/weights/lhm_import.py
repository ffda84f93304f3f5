r"""Released checkpoints of LHM and of its encoders, as parameters of our transformer.

LHM's weights are CC BY-NC 4.0: not for commercial use. Its checkpoints carry about a gigabyte of
buffers of SMPL-X, which has a licence of its own; they are left out. DINOv2's names are those of
its authors' release, with or without LHM's prefix. HaMeR's backbone is ViTPose's ViT-H, whose
unused class position is added to every patch's. Sapiens-1B is MMPretrain's vision transformer,
pretrained as a masked autoencoder, whose decoder is left out.

The names of LHM's tensors follow from its configurations, those of HaMeR and Sapiens from their
published code; no file of theirs was at hand to be compared with.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from jaxavatar.errors import InputError
from jaxavatar.weights.tensor_file import SafetensorsFile
from jaxavatar.weights.torch_names import ImportReport, Kind, Rule, Skip, convert, plan


@dataclasses.dataclass(frozen=True)
class Release:
    """What is known of a release.

    Attributes:
        title: for the user.
        licence: of the weights, as far as its pages state it.
        page: where the terms are.
        consent: whether the licence limits use, so that the user must accept it first.
        rules: where its tensors go.
        skips: what is left out.
    """

    title: str
    licence: str
    page: str
    consent: bool
    rules: tuple[Rule, ...]
    skips: tuple[Skip, ...]

    @property
    def notice(self) -> str:
        """One line about the licence."""
        return f"{self.title}: {self.licence}; the terms are at {self.page}"


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


_TIMM = ("norm1", r"attn\.qkv", r"attn\.proj", "norm2", r"mlp\.fc1", r"mlp\.fc2")
_MMPRETRAIN = ("ln1", *_TIMM[1:3], "ln2", r"ffn\.layers\.0\.0", r"ffn\.layers\.1")


def _vit_block(block: str, mine: str, names: tuple[str, ...] = _TIMM) -> tuple[Rule, ...]:
    targets = ("attention_norm", "qkv", "out", "feed_forward_norm", "up", "down")
    kinds: tuple[Kind, ...] = ("norm", "linear", "linear", "norm", "linear", "linear")
    return tuple(
        Rule(block + name, mine + target, kind)
        for name, target, kind in zip(names, targets, kinds, strict=True)
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
    Skip("initialized", "a flag of its training"),
)

SAPIENS_RULES = (
    Rule(r"(?:backbone\.)?cls_token", "body_encoder/class_token", "tensor"),
    Rule(r"(?:backbone\.)?pos_embed", "body_encoder/positions", "tensor"),
    Rule(r"(?:backbone\.)?patch_embed\.projection", "body_encoder/patches", "conv"),
    *_vit_block(r"(?:backbone\.)?layers\.(\d+)\.", r"body_encoder/block\1/", _MMPRETRAIN),
    Rule(r"(?:backbone\.)?ln1", "body_encoder/norm", "norm"),
)
SAPIENS_SKIPS = (
    Skip(r"(neck|head|decode_head)\..*", "a decoder, for pretraining or another task"),
    Skip(r"data_preprocessor\..*", "constant, part of the configuration"),
)

RELEASES: dict[str, Release] = {
    "lhm": Release(
        "LHM",
        "CC BY-NC 4.0, not for commercial use",
        "https://github.com/aigc3d/LHM",
        True,
        LHM_RULES,
        LHM_SKIPS,
    ),
    "dinov2": Release(
        "DINOv2",
        "Apache-2.0",
        "https://github.com/facebookresearch/dinov2",
        False,
        DINO_RULES,
        DINO_SKIPS,
    ),
    "hamer": Release(
        "HaMeR",
        "no licence of the weights themselves is known here, and the MANO model they were trained"
        " with is not for commercial use",
        "https://github.com/geopavlakos/hamer and https://mano.is.tue.mpg.de",
        True,
        HAMER_RULES,
        HAMER_SKIPS,
    ),
    "sapiens": Release(
        "Sapiens",
        "first released under CC BY-NC 4.0, not for commercial use; later copies may carry a"
        " licence of their own",
        "https://github.com/facebookresearch/sapiens",
        True,
        SAPIENS_RULES,
        SAPIENS_SKIPS,
    ),
}


def read_released(
    path: str | os.PathLike[str], kind: str, expected: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Any], ImportReport]:
    """Read a released checkpoint.

    Args:
        path: safetensors file.
        kind: one of `RELEASES`.
        expected: shape of every parameter of the model by its path, joined by "/".

    Returns:
        Nested dict of the parameters that were found, as NumPy arrays, and the report. Parameters
        of other parts of the model count as missing.

    Raises:
        InputError: no such file or kind, or a tensor of another shape than the model's.
    """
    file = SafetensorsFile(path)
    return arrange_released({name: file.stored(name) for name in file}, kind, expected)


def arrange_released(
    tensors: Mapping[str, Any], kind: str, expected: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Any], ImportReport]:
    """Do what `read_released` does for tensors by name.

    Raises:
        InputError: no such kind, or a tensor of another shape than the model's.
    """
    release = _release(kind)
    return convert(tensors, release.rules, release.skips, expected)


def plan_released(
    shapes: Mapping[str, tuple[int, ...]], kind: str, expected: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[str, Kind]], ImportReport]:
    """Decide where the tensors of a release go, as `torch_names.plan`.

    Raises:
        InputError: no such kind, or a tensor of another shape than the model's.
    """
    release = _release(kind)
    return plan(shapes, release.rules, release.skips, expected)


def _release(kind: str) -> Release:
    if kind not in RELEASES:
        raise InputError(f"unknown checkpoint {kind!r}; known are {', '.join(RELEASES)}")
    return RELEASES[kind]
