"""Import a released checkpoint: from a file of its authors to a file of our parameters."""

import dataclasses
import os
import pathlib
from typing import Any

from jaxavatar.errors import InputError
from jaxavatar.reconstruction.transformer.config import TransformerConfig
from jaxavatar.reconstruction.transformer.params_file import open_params, save_params
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.weights.lhm_import import RELEASES, plan_released
from jaxavatar.weights.tensor_file import SafetensorsFile
from jaxavatar.weights.torch_names import Arranged, ImportReport


def import_released(
    path: str | os.PathLike[str],
    kind: str,
    config: TransformerConfig | None,
    out: str | os.PathLike[str],
    into: str | os.PathLike[str] | None = None,
    half: bool = False,
) -> ImportReport:
    """Write a checkpoint's tensors under our names, reading one at a time.

    Args:
        path: safetensors file.
        kind: one of `lhm_import.RELEASES`.
        config: the model to fill; None takes that of `into`.
        out: file for `params_file.load_params`.
        into: earlier import whose parameters come along, unless this checkpoint has them.
        half: store float16.

    Returns:
        What became of every tensor; what neither this checkpoint nor `into` has is missing.

    Raises:
        InputError: a file is bad, does not fit the config, or holds tensors that are unknown; or
            there is no config. Nothing is written then.
    """
    earlier, info = {}, {}
    if into is not None:
        earlier, found, info = open_params(into)
        if config is not None and _with_class_token(found, True) != _with_class_token(config, True):
            raise InputError(f"{into} holds another model; leave --config away to keep its own")
        config = found
    if config is None:
        raise InputError("no model to fill; choose one with --config")
    file = SafetensorsFile(path)
    if kind == "sapiens":
        # Pretrained backbones have a class token, those tuned for a task do not; the file tells.
        config = _with_class_token(config, any(name.endswith("cls_token") for name in file))
    shapes = parameter_shapes(config)
    stored = {name: file.stored(name) for name in file}
    named = {name: tensor.shape for name, tensor in stored.items()}
    sources, report = plan_released(named, kind, shapes)
    title = RELEASES[kind].title
    if report.unknown:
        raise InputError(
            f"{path} holds tensors that this configuration of {title} does not have"
            f" ({len(report.unknown)} of them, such as {report.unknown[0]}); check the kind of"
            " checkpoint and --config"
        )
    if not sources:
        raise InputError(f"{path} holds nothing of {title}; check the kind of checkpoint")
    tensors: dict[str, Any] = earlier | {
        target: Arranged(stored[name], turn, shapes[target])
        for target, (name, turn) in sources.items()
    }
    for name, tensor in tensors.items():
        if shapes.get(name) != tensor.shape:
            raise InputError(
                f"{into} holds {name}, which {title} of {path} has otherwise; import it into"
                " another file"
            )
    origin = {"kind": kind, "file": pathlib.Path(path).name, "licence": RELEASES[kind].licence}
    info = info | {"imports": [*info.get("imports", []), origin]}
    save_params(out, tensors, config, half, info)
    return dataclasses.replace(report, missing=tuple(sorted(set(shapes) - set(tensors))))


def _with_class_token(config: TransformerConfig, token: bool) -> TransformerConfig:
    return dataclasses.replace(config, body=dataclasses.replace(config.body, class_token=token))
