"""The table of shardings: which axis of which parameter lies on which axis of the mesh.

"tensor" splits heads and hidden units of the transformers, so that a block needs one sum over the
devices for each of its parts; "fsdp" splits what is left of every matrix, which is gathered where
it is used. What is whole is small, or the line above it says why.

A rule covers the parameters whose path ends as its pattern says, wherever they hang: in a state's
parameters, in an optimiser's memory of them, in several models trained together. The first rule
that fits counts. The table is complete: a parameter that no rule covers is an error, not a copy on
every device.
"""

import functools
import re

from jax.sharding import PartitionSpec

DATA, FSDP, FRAME, TENSOR = AXES = ("data", "fsdp", "frame", "tensor")

_COLUMNS = PartitionSpec(FSDP, TENSOR)
_ROWS = PartitionSpec(TENSOR, FSDP)
_SPLIT = PartitionSpec(TENSOR)
_FIRST = PartitionSpec(FSDP)
_SECOND = PartitionSpec(None, FSDP)
_THIRD = PartitionSpec(None, None, FSDP)
_WHOLE = PartitionSpec()

_BLOCK = r"transformer/block\d+/(\w+/)?"  # of Wan, and of the reconstruction's body and head
_VIT = r"(body|hand|head)_encoder/(dino/)?"

RULES: tuple[tuple[str, PartitionSpec], ...] = (
    # Transformers of Wan and of the reconstruction.
    (_BLOCK + r"\w*attention/(\w+_)?(query|key|value)/kernel", _COLUMNS),
    (_BLOCK + r"\w*attention/(\w+_)?(query|key|value)/bias", _SPLIT),
    (_BLOCK + r"\w*attention/(context_)?out/kernel", _ROWS),
    (_BLOCK + r"\w*feed_forward/up/kernel", _COLUMNS),
    (_BLOCK + r"\w*feed_forward/up/bias", _SPLIT),
    (_BLOCK + r"\w*feed_forward/down/kernel", _ROWS),
    (_BLOCK + r"(\w*attention/(context_)?out|\w*feed_forward/down)/bias", _WHOLE),
    # Wan normalises all heads together, the reconstruction each by itself.
    (r"transformer/block\d+/\w+_attention/(query|key)_norm/scale", _SPLIT),
    (r"transformer/block\d+/\w+/attention/\w+_norm/scale", _WHOLE),
    # Wan: what is around its blocks.
    (r"transformer/(text_in|time/in|time/blocks)/kernel", _COLUMNS),
    (r"transformer/(text_in|time/in)/bias", _SPLIT),
    (r"transformer/(text_out|time/out)/kernel", _ROWS),
    (r"transformer/(out|audio/pack)/kernel", _FIRST),
    (r"transformer/patches/kernel", PartitionSpec(None, None, None, None, FSDP)),
    (r"transformer/audio\d+/kernel", _SECOND),
    (r"transformer/(block\d+/)?(modulation|cross_norm/(scale|bias))", _WHOLE),
    (r"transformer/(text_out|time/out|time/blocks|patches|out|audio/pack|audio\d+)/bias", _WHOLE),
    (r"transformer/audio/norm/(scale|bias)", _WHOLE),
    # Reconstruction: what is around its blocks, and decoders.
    (_BLOCK + r"\w*modulation/linear/kernel", _COLUMNS),
    (_BLOCK + r"\w*modulation/linear/bias", _WHOLE),
    (r"transformer/context_in/kernel", _FIRST),
    (r"transformer/(context_in/bias|norm/(scale|bias))", _WHOLE),
    (r"(point_embedding/linear|photo_embedding)/kernel", _SECOND),
    (r"(point_embedding/linear|photo_embedding)/bias", _WHOLE),
    (r"point_embedding/norm/(scale|bias)", _WHOLE),
    (r"(global_code/(in|out)|hand_projection/linear)/kernel", _FIRST),
    (r"(global_code/(in|out)|hand_projection/linear)/bias", _WHOLE),
    (r"hand_projection/(sides|unseen)", _WHOLE),
    (r"(weight_)?decoder/(hidden\d*|features|own)/kernel", _SECOND),
    (r"((weight_)?decoder/out|gaussians/\w+)/kernel", _FIRST),
    (r"((weight_)?decoder/(hidden\d*|features|own|out)|gaussians/\w+)/bias", _WHOLE),
    # Reconstruction: encoders of pictures.
    (_VIT + r"block_?\d+/(qkv|up)/kernel", _COLUMNS),
    (_VIT + r"block_?\d+/(qkv|up)/bias", _SPLIT),
    (_VIT + r"block_?\d+/(out|down)/kernel", _ROWS),
    (_VIT + r"block_?\d+/(out|down)/bias", _WHOLE),
    (_VIT + r"patches/kernel", PartitionSpec(None, None, None, FSDP)),
    (_VIT + r"positions", _SECOND),
    (_VIT + r"(depth\d+|fuse)/kernel", _FIRST),
    (_VIT + r"(patches|depth\d+|fuse)/bias", _WHOLE),
    (_VIT + r"(block_?\d+/)?\w*norm/(scale|bias)", _WHOLE),
    (_VIT + r"block_\d+/\w+_scale", _WHOLE),
    (_VIT + r"(class_token|registers)", _WHOLE),
    # The small video teacher, whose attention keeps an axis of heads.
    (r"dit/block_\d+/(space|time|speech)/(query|key|value)/kernel", _COLUMNS),
    (r"dit/block_\d+/(space|time|speech)/(query|key|value)/bias", _SPLIT),
    (r"dit/block_\d+/(space|time|speech)/out/kernel", PartitionSpec(TENSOR, None, FSDP)),
    (r"dit/block_\d+/mlp_in/kernel", _COLUMNS),
    (r"dit/block_\d+/mlp_in/bias", _SPLIT),
    (r"dit/block_\d+/mlp_out/kernel", _ROWS),
    (r"dit/(block_\d+/|last_)modulation/kernel", _COLUMNS),
    (r"dit/((clip|level|reference)_(in|out)/kernel|place)", _SECOND),
    (r"dit/ears/(summary_)?(in|out)/kernel", _SECOND),
    (r"dit/out/kernel", _FIRST),
    (r"dit/block_\d+/((space|time|speech)/out|mlp_out|modulation)/bias", _WHOLE),
    (r"dit/(block_\d+/)?\w+_norm/(scale|bias)", _WHOLE),
    (r"dit/block_\d+/(space|time|speech)/(query|key)_norm/scale", _WHOLE),
    (r"dit/((clip|level|reference)_(in|out)|last_modulation|out)/bias", _WHOLE),
    (r"dit/ears/(lag|silence|norm/(scale|bias)|(summary_)?(in|out)/bias)", _WHOLE),
    # The driver has half a million parameters: "fsdp" alone.
    (r"fusion/(audio_in|audio_out|gate_in|text)/kernel", _SECOND),
    (r"fusion/gate_out/kernel", _FIRST),
    (r"fusion/\w+/(bias|scale)", _WHOLE),
    (r"features/face_code/kernel", _SECOND),
    (r"motion/attention/(query|key|value)/kernel", _FIRST),
    (r"motion/attention/out/kernel", _THIRD),
    (r"motion/attention/\w+/bias", _WHOLE),
    (r"motion/(anchors|condition|twist_in|direct_in)/kernel", _SECOND),
    (r"motion/direct_out/kernel", _FIRST),
    (r"motion/(joints|twist_out)", _SECOND),
    (r"motion/(kinds|twist_bias|\w+/(bias|scale))", _WHOLE),
    (r"gaussian/(key|value|query_in|query_out|scores)/kernel", _SECOND),
    (r"gaussian/order/kernel", _FIRST),
    (r"gaussian/gated", _THIRD),
    (r"gaussian/out", _SECOND),
    (r"gaussian/(gated_bias|out_bias|\w+/(bias|scale))", _WHOLE),
    (r"rate", _WHOLE),
    # An avatar's own Gaussians: as many as its photo gave, which nothing need divide.
    (r"avatar/(means|scales|opacities|colors)", _WHOLE),
    # Convolutions of Wan's autoencoder (54 and 73 million parameters) and of the small teacher's:
    # a copy on every device spares the gathering.
    (r"((auto)?encoder|decoder)/.*", _WHOLE),
    (r"null_text", _WHOLE),
)


@functools.cache
def rule_of(path: str) -> tuple[str, PartitionSpec]:
    """Return the rule that covers a parameter: its pattern, and which axes it splits.

    Args:
        path: names separated by "/", from whatever holds the parameter down to it.

    Raises:
        ValueError: no rule does.
    """
    for pattern, spec in RULES:
        if re.fullmatch(rf"(.*/)?({pattern})", path):
            return pattern, spec
    raise ValueError(
        f"no sharding rule covers the parameter {path}; add one to training.sharding_rules.RULES"
    )
