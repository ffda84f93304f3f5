"""`config.json` of a Hugging Face checkpoint, as our sizes."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxavatar.errors import InputError
from jaxavatar.speech.shapes import SpeechConfig, parameter_shapes
from jaxavatar.speech.wav2vec2 import Wav2Vec2Config
from jaxavatar.speech.whisper import WhisperConfig


def read_hub_config(path: str | os.PathLike[str], kind: str) -> SpeechConfig:
    """Read the sizes of a checkpoint.

    Args:
        path: config.json.
        kind: "wav2vec2" or "whisper".

    Raises:
        InputError: the file is missing or damaged, of another kind of model, or of a variant that
            our modules do not compute.
    """
    try:
        fields = json.loads(pathlib.Path(path).read_text("utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError as error:
        raise InputError(
            f"there is no {path}; put the config.json of the checkpoint beside it"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); fetch it again") from error
    found = fields.get("model_type")
    if found != kind:
        raise InputError(f"{path} describes a model of type {found!r}, not {kind!r}")
    try:
        config = _wav2vec2(fields) if kind == "wav2vec2" else _whisper(fields)
        parameter_shapes(config)  # whether the sizes fit together
    except KeyError as error:
        raise InputError(f"{path} lacks {error}; fetch it again") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        raise InputError(
            f"{path} describes a variant that is not supported ({error}); use another checkpoint"
        ) from error
    return config


def _wav2vec2(fields: Mapping[str, Any]) -> Wav2Vec2Config:
    # What our module computes; the values that a file leaves out are these.
    _expect(fields, "hidden_act", "gelu")
    _expect(fields, "feat_extract_activation", "gelu")
    _expect(fields, "add_adapter", False)
    _expect(fields, "adapter_attn_dim", None)
    norm = fields.get("feat_extract_norm", "group")
    if norm not in ("group", "layer"):
        raise ValueError(f"feat_extract_norm is {norm!r}")
    config = Wav2Vec2Config(
        conv_widths=tuple(fields["conv_dim"]),
        conv_kernels=tuple(fields["conv_kernel"]),
        conv_strides=tuple(fields["conv_stride"]),
        conv_bias=fields["conv_bias"],
        conv_norm=norm,
        width=fields["hidden_size"],
        heads=fields["num_attention_heads"],
        layers=fields["num_hidden_layers"],
        hidden=fields["intermediate_size"],
        pre_norm=fields["do_stable_layer_norm"],
        position_kernel=fields["num_conv_pos_embeddings"],
        position_groups=fields["num_conv_pos_embedding_groups"],
        epsilon=fields["layer_norm_eps"],
    )
    if not len(config.conv_widths) == len(config.conv_kernels) == len(config.conv_strides):
        raise ValueError("its lists of convolutions differ in length")
    return config


def _whisper(fields: Mapping[str, Any]) -> WhisperConfig:
    width, heads = fields["d_model"], fields["encoder_attention_heads"]
    _expect(fields, "activation_function", "gelu")
    _expect(fields, "scale_embedding", False)
    _expect(fields, "decoder_attention_heads", heads)
    _expect(fields, "encoder_ffn_dim", 4 * width)
    _expect(fields, "decoder_ffn_dim", 4 * width)
    return WhisperConfig(
        mels=fields["num_mel_bins"],
        width=width,
        heads=heads,
        encoder_layers=fields["encoder_layers"],
        decoder_layers=fields["decoder_layers"],
        vocabulary=fields["vocab_size"],
        audio_positions=fields["max_source_positions"],
        text_positions=fields["max_target_positions"],
    )


def _expect(fields: Mapping[str, Any], name: str, value: Any) -> None:
    if (found := fields.get(name, value)) != value:
        raise ValueError(f"{name} is {found!r}, not {value!r}")
