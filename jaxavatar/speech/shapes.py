"""Names and shapes of a speech model's parameters, without making any."""

import functools
import types
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from jaxavatar.speech import wav2vec2, whisper
from jaxavatar.speech.wav2vec2 import Wav2Vec2Config
from jaxavatar.speech.whisper import Decoder, WhisperConfig

SpeechConfig = WhisperConfig | Wav2Vec2Config


@functools.lru_cache(maxsize=8)  # tracing takes a while
def parameter_shapes(config: SpeechConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter by its path, joined by "/".

    Paths of Whisper begin with "encoder" or "decoder", the fields of `whisper_file.Whisper`.
    """
    make = _wav2vec2 if isinstance(config, Wav2Vec2Config) else _whisper
    tree = jax.eval_shape(functools.partial(make, config), jax.random.key(0))
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(tree, sep="/")
    return types.MappingProxyType({path: leaf.shape for path, leaf in flat.items()})


def _wav2vec2(config: Wav2Vec2Config, key: jax.Array) -> Any:
    return wav2vec2.Encoder(config).init(key, jnp.zeros(config.reach))["params"]


def _whisper(config: WhisperConfig, key: jax.Array) -> dict[str, Any]:
    def read(decoder: Decoder) -> jax.Array:
        heard = decoder.hear(jnp.zeros((config.audio_positions, config.width)))
        states, _ = decoder(jnp.zeros(1, int), jnp.array(0), decoder.silence(1), heard)
        return decoder.logits(states)

    frames = jnp.zeros((2 * config.audio_positions, config.mels))
    encoder = whisper.Encoder(config).init(key, frames)["params"]
    return {"encoder": encoder, "decoder": Decoder(config).init(key, method=read)["params"]}
