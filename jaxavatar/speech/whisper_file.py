"""Whisper's weights: from a CTranslate2 file to the parameters of the Flax modules."""

import os
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxavatar import weights
from jaxavatar.errors import InputError
from jaxavatar.speech import ct2
from jaxavatar.speech.whisper import WhisperConfig


@flax.struct.dataclass
class Whisper:
    """A model: parameters of both halves, and the static sizes."""

    encoder: dict[str, Any]
    decoder: dict[str, Any]
    config: WhisperConfig = flax.struct.field(pytree_node=False, default=WhisperConfig())


def pretrained() -> Whisper:
    """Load Whisper tiny.en from the weights registry.

    Raises:
        InputError: the weights cannot be fetched.
    """
    return load(weights.path("whisper-tiny.en"))


def load(path: str | os.PathLike[str]) -> Whisper:
    """Read a Whisper model from a CTranslate2 file.

    Args:
        path: model.bin; float16 or float32 weights. The sizes are taken from the file.

    Raises:
        InputError: the file is missing or damaged, or is no Whisper model.
    """
    arrays = ct2.read(path)
    try:
        config = _config(arrays)
        encoder, decoder = _encoder(arrays, config), _decoder(arrays, config)
    except KeyError as error:
        raise InputError(f"{path} is no Whisper model: {error} is missing in it") from error
    as_device = jax.tree.map(jnp.asarray, (encoder, decoder))
    return Whisper(*as_device, config=config)


def _config(arrays: dict[str, np.ndarray]) -> WhisperConfig:
    def layers(side: str) -> int:
        return sum(f"{side}/layer_{i}/ffn/layer_norm/gamma" in arrays for i in range(64))

    width, mels, _ = arrays["encoder/conv1/weight"].shape
    return WhisperConfig(
        mels=mels,
        width=width,
        heads=int(arrays["encoder/num_heads"]),
        encoder_layers=layers("encoder"),
        decoder_layers=layers("decoder"),
        vocabulary=len(arrays["decoder/embeddings/weight"]),
        audio_positions=len(arrays["encoder/position_encodings/encodings"]),
        text_positions=len(arrays["decoder/position_encodings/encodings"]),
    )


class _Converter:
    """Takes CTranslate2 variables out under a prefix, in Flax's layout and float32."""

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str) -> None:
        self.arrays = arrays
        self.prefix = prefix

    def raw(self, name: str) -> np.ndarray:
        return self.arrays[f"{self.prefix}/{name}"].astype(np.float32)

    def dense(self, name: str, names: tuple[str, ...]) -> dict[str, dict[str, np.ndarray]]:
        """Split a fused linear layer, whose weight has outputs as rows, into `names`."""
        kernels = np.split(self.raw(f"{name}/weight").T, len(names), axis=1)
        biases = np.split(self.raw(f"{name}/bias"), len(names))
        return {
            part: {"kernel": kernel} if part == "key" else {"kernel": kernel, "bias": bias}
            for part, kernel, bias in zip(names, kernels, biases, strict=True)
        }

    def conv(self, name: str) -> dict[str, np.ndarray]:
        return {
            "kernel": self.raw(f"{name}/weight").transpose(2, 1, 0),
            "bias": self.raw(f"{name}/bias"),
        }

    def norm(self, name: str) -> dict[str, np.ndarray]:
        return {"scale": self.raw(f"{name}/gamma"), "bias": self.raw(f"{name}/beta")}

    def feed_forward(self) -> dict[str, Any]:
        up, down = self.dense("ffn/linear_0", ("up",)), self.dense("ffn/linear_1", ("down",))
        return {"norm": self.norm("ffn/layer_norm"), **up, **down}

    def self_attention(self) -> dict[str, Any]:
        qkv = self.dense("self_attention/linear_0", ("query", "key", "value"))
        return {**qkv, **self.dense("self_attention/linear_1", ("out",))}

    def cross_attention(self) -> dict[str, Any]:
        query = self.dense("attention/linear_0", ("query",))
        key_value = self.dense("attention/linear_1", ("key", "value"))
        return {**query, **key_value, **self.dense("attention/linear_2", ("out",))}


def _encoder(arrays: dict[str, np.ndarray], config: WhisperConfig) -> dict[str, Any]:
    top = _Converter(arrays, "encoder")
    blocks = {}
    for layer in range(config.encoder_layers):
        block = _Converter(arrays, f"encoder/layer_{layer}")
        blocks[f"block{layer}"] = {
            "attention": block.self_attention(),
            "attention_norm": block.norm("self_attention/layer_norm"),
            "feed_forward": block.feed_forward(),
        }
    return {
        "conv1": top.conv("conv1"),
        "conv2": top.conv("conv2"),
        "positions": top.raw("position_encodings/encodings"),
        "norm": top.norm("layer_norm"),
        **blocks,
    }


def _decoder(arrays: dict[str, np.ndarray], config: WhisperConfig) -> dict[str, Any]:
    top = _Converter(arrays, "decoder")
    blocks = {}
    for layer in range(config.decoder_layers):
        block = _Converter(arrays, f"decoder/layer_{layer}")
        blocks[f"blocks_{layer}"] = {
            "attention": block.self_attention(),
            "attention_norm": block.norm("self_attention/layer_norm"),
            "cross": block.cross_attention(),
            "cross_norm": block.norm("attention/layer_norm"),
            "feed_forward": block.feed_forward(),
        }
    return {
        "embedding": {"embedding": top.raw("embeddings/weight")},
        "positions": top.raw("position_encodings/encodings"),
        "norm": top.norm("layer_norm"),
        **blocks,
    }
