"""Parameters of the transformer as one safetensors file, whole or in part, with their config.

Names are the parameters' paths joined by "/". The metadata holds the config and notes as JSON. An
import of released weights fills only some parts of a model (LHM's lack the body encoder): a file
may lack any parameter, but holds none that its config does not have.
"""

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from jaxavatar.errors import InputError
from jaxavatar.reconstruction.transformer.config import TransformerConfig
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.weights.tensor_file import SafetensorsFile, StoredTensor, write_tensors

FORMAT = "jaxavatar transformer"
VERSION = 1


def save_params(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: TransformerConfig,
    half: bool = False,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write parameters and config, one tensor after the other.

    Args:
        path: of the file.
        params: nested dict as from `Reconstructor.init`, any part of it. Leaves have a shape and
            are read by NumPy when their turn comes, so `StoredTensor` does.
        config: what the parameters belong to.
        half: store float16 (half the size) instead of float32.
        info: notes, values of JSON.

    Raises:
        InputError: the file cannot be written, or a number is not finite or too large for float16.
    """
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(dataclasses.asdict(config)),
        "info": json.dumps(dict(info or {})),
    }
    flat = flax.traverse_util.flatten_dict(dict(params), sep="/")
    write_tensors(path, flat, metadata, np.float16 if half else np.float32)


def load_params(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], TransformerConfig, dict[str, Any]]:
    """Read what `save_params` wrote.

    Returns:
        Nested dict of the parameters in the file as float32, the config, and the notes.

    Raises:
        InputError: there is no such file, it is damaged, of a newer version or of another kind, or
            holds a tensor that its config does not have.
    """
    stored, config, info = open_params(path)
    params = {}
    for name, tensor in stored.items():
        array = np.asarray(tensor, np.float32)
        if not np.isfinite(array).all():  # by NumPy: JAX would compile for every shape
            raise _damaged(path, f"{name} is not finite")
        params[name] = jax.device_put(array)
    return flax.traverse_util.unflatten_dict(params, sep="/"), config, info


def open_params(
    path: str | os.PathLike[str],
) -> tuple[dict[str, StoredTensor], TransformerConfig, dict[str, Any]]:
    """Return what `load_params` does, with the tensors unread and by their whole names.

    Raises:
        InputError: as `load_params`, values apart.
    """
    file = SafetensorsFile(path)
    if file.metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} does not hold parameters of this transformer; make them with `jaxavatar"
            " weights import`"
        )
    try:
        version = int(file.metadata["version"])
        if version > VERSION:
            raise InputError(
                f"{path} has format {version}, this jaxavatar reads up to {VERSION}; update"
                " jaxavatar"
            )
        config = config_from_fields(json.loads(file.metadata["config"]))
        info = json.loads(file.metadata["info"])
        if not isinstance(info, dict):
            raise ValueError("its notes are no dict")
        shapes = parameter_shapes(config)
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise _damaged(path, str(error)) from error
    stored = {name: file.stored(name) for name in file}
    for name, tensor in stored.items():
        if shapes.get(name) != tensor.shape:
            expected = f"not {shapes[name]}" if name in shapes else "which its config lacks"
            raise _damaged(path, f"it holds {name} of shape {tensor.shape}, {expected}")
    return stored, config, info


def config_from_fields(fields: Any) -> TransformerConfig:
    """Rebuild a config from `dataclasses.asdict` of it that went through JSON.

    Fields that are missing have their defaults, so that older files stay readable.

    Raises:
        ValueError: an unknown field, or a value of another type.
    """
    return _as(TransformerConfig, fields, "config")


def _as(hint: Any, value: Any, name: str) -> Any:
    """Return a value of JSON as what a field's annotation says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        hints = typing.get_type_hints(hint)
        if unknown := set(value) - set(hints):
            raise ValueError(f"its {name} has an unknown field {min(unknown)!r}")
        try:
            return typing.cast(Any, hint)(**{k: _as(hints[k], v, k) for k, v in value.items()})
        except TypeError as error:
            raise ValueError(f"its {name} lacks a field") from error
    if origin is tuple and isinstance(value, list):
        kinds = inner[:1] * len(value) if inner[-1:] == (Ellipsis,) else inner
        if len(kinds) == len(value):
            return tuple(_as(kind, v, name) for kind, v in zip(kinds, value, strict=True))
    elif origin in (types.UnionType, typing.Union):
        kind = next((k for k in inner if k is not types.NoneType), None)
        return None if value is None and types.NoneType in inner else _as(kind, value, name)
    elif origin is typing.Literal and value in inner:
        return value
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"its {name} cannot be {value!r}")


def _damaged(path: str | os.PathLike[str], reason: str) -> InputError:
    return InputError(f"the parameters {path} are damaged ({reason}); make the file again")
