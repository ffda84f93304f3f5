"""E_aud and E_text by name: the embedded Whisper, released models, or files that were imported."""

import dataclasses
import os
import pathlib
from typing import Literal

from jaxavatar import weights
from jaxavatar.errors import InputError
from jaxavatar.speech import vocabulary, wav2vec2, whisper, whisper_file
from jaxavatar.speech.features import FeatureConfig, SpeechEncoder
from jaxavatar.speech.model_file import load_model, load_vocabulary
from jaxavatar.speech.released import read_released
from jaxavatar.speech.shapes import SpeechConfig
from jaxavatar.speech.vocabulary import Vocabulary
from jaxavatar.speech.wav2vec2 import Wav2Vec2
from jaxavatar.speech.whisper_file import Whisper

EMBEDDED = "whisper-tiny.en"
"""The model that comes from the package index, on which the shipped driver was trained."""


@dataclasses.dataclass(frozen=True)
class ReleasedModel:
    """A released model of the weights registry: its kind and sizes."""

    kind: Literal["wav2vec2", "whisper"]
    config: SpeechConfig


RELEASED: dict[str, ReleasedModel] = {
    "wav2vec2-base-960h": ReleasedModel("wav2vec2", wav2vec2.CONFIGS["base"]),
    "wav2vec2-large-960h": ReleasedModel("wav2vec2", wav2vec2.CONFIGS["large"]),
    **{
        f"whisper-{size}": ReleasedModel("whisper", whisper.CONFIGS[size])
        for size in ("tiny", "base", "small", "medium", "large-v3", "large-v3-turbo")
    },
    "whisper-large-v2": ReleasedModel("whisper", whisper.CONFIGS["large"]),
}


def load_encoder(
    name: str | os.PathLike[str] = EMBEDDED, config: FeatureConfig | None = None
) -> SpeechEncoder:
    """Load E_aud.

    Args:
        name: `EMBEDDED`, one of `RELEASED` (fetched on first use), or the path of a file that
            `jaxavatar weights import` made.
        config: how A_t is made; None for `default_features`.

    Raises:
        InputError: there is no such model, it cannot be fetched, or it is damaged.
    """
    model, title = _load(name)
    return SpeechEncoder(title, model, config or default_features(model))


def load_reader(
    name: str | os.PathLike[str] = EMBEDDED, language: str = "en"
) -> tuple[Whisper, Vocabulary]:
    """Load E_text, which also transcribes: a Whisper model and its vocabulary.

    Args:
        name: as for `load_encoder`.
        language: that multilingual models transcribe, such as "en".

    Raises:
        InputError: as `load_encoder`, or the model is no Whisper or lacks a vocabulary.
    """
    model, _ = _load(name)
    if not isinstance(model, Whisper):
        raise InputError(f"{name} is wav2vec 2.0, which reads no text; choose a Whisper model")
    if str(name) == EMBEDDED:
        return model, vocabulary.pretrained()
    if str(name) in RELEASED:
        files = (weights.path(f"{name}/{file}") for file in ("tokenizer", "generation"))
        return model, vocabulary.load(*files, language=language)
    return model, load_vocabulary(name, language)


def default_features(model: Whisper | Wav2Vec2) -> FeatureConfig:
    """Return how A_t is made of a model unless someone chooses.

    The layer is three quarters up, where a probe of tiny.en found the best compromise (see
    `FeatureConfig`); other models were not at hand. wav2vec 2.0, trained on longer clips, has
    windows of 8 s instead of 4 s.
    """
    if isinstance(model, Wav2Vec2):
        return FeatureConfig((_above(model.config.layers),), step=100, context=50)
    return FeatureConfig((_above(model.config.encoder_layers),))


def teacher_features(model: Wav2Vec2) -> FeatureConfig:
    """Return how OmniAvatar's audio condition is made of its wav2vec 2.0.

    The features of the convolutions are brought to the frame rate before the transformer; a row is
    the last state and then all states, as they are: 14 x 768 for the base model.
    """
    layers = model.config.layers
    return FeatureConfig(
        (layers, *range(layers + 1)), step=100, context=50, normed=False, resample=True
    )


def _load(name: str | os.PathLike[str]) -> tuple[Whisper | Wav2Vec2, str]:
    """Return a model and its name."""
    title = str(name)
    if title == EMBEDDED:
        return whisper_file.pretrained(), title
    if title in RELEASED:
        known = RELEASED[title]
        return read_released(weights.path(title), known.kind, known.config)[0], title
    return load_model(_existing(name))


def _above(layers: int) -> int:
    return max(1, round(0.75 * layers))


def _existing(name: str | os.PathLike[str]) -> pathlib.Path:
    path = pathlib.Path(name)
    if not path.is_file():
        raise InputError(
            f"there is no speech model {name}; name a file of `jaxavatar weights import`, or one of"
            f" {', '.join([EMBEDDED, *RELEASED])}"
        )
    return path
