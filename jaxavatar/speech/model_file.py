"""A speech model as one safetensors file: parameters, sizes, and Whisper's vocabulary.

Names are the parameters' paths joined by "/" (`shapes.parameter_shapes`). The metadata holds the
kind, the encoder's name, the sizes and notes as JSON, and the texts of the vocabulary's two files.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from jaxavatar.errors import InputError
from jaxavatar.speech import vocabulary
from jaxavatar.speech.shapes import SpeechConfig, parameter_shapes
from jaxavatar.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from jaxavatar.speech.whisper import WhisperConfig
from jaxavatar.speech.whisper_file import Whisper
from jaxavatar.weights.tensor_file import SafetensorsFile, write_tensors

FORMAT = "jaxavatar speech"
VERSION = 1

_KINDS: dict[str, type[SpeechConfig]] = {"wav2vec2": Wav2Vec2Config, "whisper": WhisperConfig}
_VOCABULARY = ("tokenizer", "suppression")


def save_model(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    config: SpeechConfig,
    name: str,
    notes: Mapping[str, Any],
    half: bool = False,
    vocabulary_texts: tuple[str, str] | None = None,
) -> None:
    """Write a model, one tensor after the other.

    Args:
        path: of the file.
        tensors: parameters by path; each has a shape and is read by NumPy when its turn comes.
        config: the sizes.
        name: of the encoder.
        notes: where it is from, values of JSON.
        half: store float16 (half the size) instead of float32.
        vocabulary_texts: as for `vocabulary.parse`, if Whisper's vocabulary is known.

    Raises:
        InputError: the file cannot be written, or a number is not finite or too large for float16.
    """
    kind = next(kind for kind, sizes in _KINDS.items() if isinstance(config, sizes))
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "kind": kind,
        "name": name,
        "config": json.dumps(dataclasses.asdict(config)),
        "notes": json.dumps(dict(notes)),
    }
    if vocabulary_texts is not None:
        metadata |= dict(zip(_VOCABULARY, vocabulary_texts, strict=True))
    write_tensors(path, tensors, metadata, np.float16 if half else np.float32)


def load_model(path: str | os.PathLike[str]) -> tuple[Whisper | Wav2Vec2, str]:
    """Read a model that `save_model` wrote.

    Returns:
        The model, its numbers as float32, and its name.

    Raises:
        InputError: there is no such file, it is damaged, of a newer version or of another kind.
    """
    file = _open(path)
    try:
        config = _config(_KINDS[file.metadata["kind"]], json.loads(file.metadata["config"]))
        name, shapes = file.metadata["name"], parameter_shapes(config)
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise _damaged(path, str(error)) from error
    found = {key: file.stored(key).shape for key in file}
    if found != dict(shapes):
        wrong = min(set(found.items()) ^ set(shapes.items()))[0]
        raise _damaged(path, f"{wrong} is missing, of another shape or too many")
    return build({key: file[key] for key in file}, config), name


def load_vocabulary(path: str | os.PathLike[str], language: str = "en") -> vocabulary.Vocabulary:
    """Read the vocabulary that a file of `save_model` holds.

    Raises:
        InputError: it holds none, it is damaged, or it does not know the language.
    """
    file = _open(path)
    if any(key not in file.metadata for key in _VOCABULARY):
        raise InputError(
            f"{path} holds no vocabulary; import Whisper with tokenizer.json and"
            " generation_config.json beside its checkpoint"
        )
    texts = [file.metadata[key] for key in _VOCABULARY]
    return vocabulary.parse(*texts, language=language, name=str(path))


def build(tensors: Mapping[str, np.ndarray], config: SpeechConfig) -> Whisper | Wav2Vec2:
    """Make a model of all its parameters by path; numbers become float32."""
    flat = {key: jnp.asarray(tensor, jnp.float32) for key, tensor in tensors.items()}
    params: dict[str, Any] = flax.traverse_util.unflatten_dict(flat, sep="/")
    if isinstance(config, Wav2Vec2Config):
        return Wav2Vec2(params, config)
    return Whisper(params["encoder"], params["decoder"], config)


def _open(path: str | os.PathLike[str]) -> SafetensorsFile:
    file = SafetensorsFile(path)
    if file.metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} does not hold a speech model of ours; make one with `jaxavatar weights import"
            " wav2vec2` or `whisper`"
        )
    version = file.metadata.get("version", "")
    if not version.isdigit() or int(version) > VERSION:
        raise InputError(
            f"{path} has format {version}, this jaxavatar reads up to {VERSION}; update jaxavatar"
        )
    return file


def _config(kind: type[SpeechConfig], fields: dict[str, Any]) -> SpeechConfig:
    """Rebuild sizes from JSON, where tuples are lists."""
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return kind(**sizes)


def _damaged(path: str | os.PathLike[str], reason: str) -> InputError:
    return InputError(f"the speech model {path} is damaged ({reason}); import it again")
