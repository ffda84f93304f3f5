"""Released checkpoints of wav2vec 2.0 and Whisper: read them, or import them into our format."""

import os
import pathlib
from collections.abc import Mapping

from jaxavatar.errors import InputError
from jaxavatar.speech.hub_config import read_hub_config
from jaxavatar.speech.model_file import build, save_model
from jaxavatar.speech.shapes import SpeechConfig, parameter_shapes
from jaxavatar.speech.wav2vec2 import Wav2Vec2
from jaxavatar.speech.whisper_file import Whisper
from jaxavatar.weights.speech_import import SPEECH_RELEASES
from jaxavatar.weights.tensor_file import SafetensorsFile
from jaxavatar.weights.torch_names import Arranged, ImportReport, plan

VOCABULARY_FILES = ("tokenizer.json", "generation_config.json")


def read_released(
    path: str | os.PathLike[str], kind: str, config: SpeechConfig | None = None
) -> tuple[Whisper | Wav2Vec2, ImportReport]:
    """Read a checkpoint of Hugging Face as a model.

    Args:
        path: safetensors file.
        kind: one of `speech_import.SPEECH_RELEASES`.
        config: the sizes; None reads the config.json beside the file.

    Returns:
        The model, and what became of every tensor.

    Raises:
        InputError: a file is missing or damaged, holds unknown tensors, lacks some, or has other
            sizes.
    """
    file = SafetensorsFile(path)
    config = config or _config_beside(path, kind)
    tensors, report = _arranged(file, kind, config, path)
    return build({name: tensor.__array__() for name, tensor in tensors.items()}, config), report


def import_released(
    path: str | os.PathLike[str], kind: str, out: str | os.PathLike[str], half: bool = False
) -> ImportReport:
    """Write a checkpoint as a file for `model_file.load_model`, reading one tensor at a time.

    Whisper's vocabulary comes along when tokenizer.json and generation_config.json lie beside the
    checkpoint. The file's stem becomes the encoder's name.

    Args:
        path: safetensors file with config.json beside it.
        kind: one of `speech_import.SPEECH_RELEASES`.
        out: the file to write.
        half: store float16.

    Returns:
        What became of every tensor.

    Raises:
        InputError: as `read_released`, or `out` cannot be written. Nothing is written then.
    """
    file = SafetensorsFile(path)
    config = _config_beside(path, kind)
    tensors, report = _arranged(file, kind, config, path)
    notes = {
        "kind": kind,
        "file": pathlib.Path(path).name,
        "licence": SPEECH_RELEASES[kind].licence,
    }
    beside = [pathlib.Path(path).with_name(name) for name in VOCABULARY_FILES]
    texts = None
    if kind == "whisper" and all(file.is_file() for file in beside):
        texts = beside[0].read_text("utf-8"), beside[1].read_text("utf-8")
    save_model(out, tensors, config, pathlib.Path(out).stem, notes, half, texts)
    return report


def _config_beside(path: str | os.PathLike[str], kind: str) -> SpeechConfig:
    return read_hub_config(pathlib.Path(path).with_name("config.json"), kind)


def _arranged(
    file: SafetensorsFile, kind: str, config: SpeechConfig, path: str | os.PathLike[str]
) -> tuple[Mapping[str, Arranged], ImportReport]:
    """Plan where the tensors go; none is read yet."""
    release, shapes = SPEECH_RELEASES[kind], parameter_shapes(config)
    stored = {name: file.stored(name) for name in file}
    named = {name: tensor.shape for name, tensor in stored.items()}
    sources, report = plan(named, release.rules, release.skips, shapes)
    for names, problem in (
        (report.unknown, "holds tensors that this size of {} does not have"),
        (report.missing, "lacks parameters of {}"),
    ):
        if names:
            raise InputError(
                f"{path} {problem.format(release.title)} ({len(names)} of them, such as"
                f" {names[0]}); check the kind of checkpoint and its config.json"
            )
    arranged = {
        target: Arranged(stored[name], turn, shapes[target])
        for target, (name, turn) in sources.items()
    }
    return arranged, report
