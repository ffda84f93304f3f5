"""A teacher as one safetensors file: released checkpoints go in, parameters come out."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from jaxavatar.errors import InputError
from jaxavatar.teachers.wan.config import CONFIGS
from jaxavatar.teachers.wan.init import shapes_of
from jaxavatar.teachers.wan.load import load_autoencoder, load_transformer
from jaxavatar.teachers.wan.teacher import WanTeacher
from jaxavatar.weights.tensor_file import SafetensorsFile, write_tensors
from jaxavatar.weights.torch_names import ImportReport

FORMAT = "jaxavatar wan teacher"
NOTICE = (
    "Wan2.1 and OmniAvatar: Apache-2.0; the terms are at https://huggingface.co/Wan-AI and"
    " https://huggingface.co/OmniAvatar"
)

Path = str | os.PathLike[str]
Params = dict[str, Any]


def import_released(
    base: Path, adapter: Path, autoencoder: Path, name: str, out: Path, half: bool = False
) -> ImportReport:
    """Write released checkpoints as a file for `load_teacher`; all of it is in memory meanwhile.

    Args:
        base: safetensors file of Wan2.1-T2V's transformer, or the folder of its shards.
        adapter: OmniAvatar's safetensors file; a config.json beside it tells `lora_alpha`, which
            is 64 without one.
        autoencoder: safetensors file of Wan2.1's autoencoder.
        name: one of `CONFIGS`.
        out: the file to write.
        half: store float16.

    Returns:
        What became of every tensor. No text is known yet: the null text is zero.

    Raises:
        InputError: as `load_transformer`, or `out` cannot be written. Nothing is written then.
    """
    config, folder = CONFIGS[name], pathlib.Path(base)
    shards = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]
    if not shards:
        raise InputError(f"{base} holds no safetensors file; name the folder of the shards")
    # The smaller file first: what is wrong with it shows sooner.
    coded, code_report = load_autoencoder(config.autoencoder, autoencoder)
    transformer, report = load_transformer(config.transformer, shards, adapter, _alpha(adapter))
    sizes = config.transformer.text_tokens, config.transformer.text_width
    params = coded | {"transformer": transformer, "null_text": np.zeros(sizes, np.float32)}
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    metadata = {"format": FORMAT, "config": name, "licence": NOTICE}
    write_tensors(out, flat, metadata, np.float16 if half else np.float32)
    used = {k: f"transformer/{path}" for k, path in report.used.items()} | code_report.used
    return dataclasses.replace(report, used=used)


def load_teacher(path: Path, half: bool = False) -> tuple[WanTeacher, Params]:
    """Read what `import_released` wrote.

    Args:
        path: of the file.
        half: keep kernels in bfloat16; all else is float32.

    Returns:
        The teacher and its parameters.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    file = SafetensorsFile(path)
    name = file.metadata.get("config")
    if file.metadata.get("format") != FORMAT or name not in CONFIGS:
        raise InputError(f"{path} holds no teacher; make one with `jaxavatar weights import wan`")
    teacher = WanTeacher(CONFIGS[name])
    shapes = shapes_of(teacher.init)
    if {key: file.stored(key).shape for key in file} != dict(shapes):
        raise InputError(f"the teacher {path} does not have the sizes of {name}; import it anew")
    flat = {}
    for key in shapes:
        kind = jnp.bfloat16 if half and key.endswith("kernel") else jnp.float32
        flat[key] = jnp.asarray(file[key].astype(kind))
    return teacher, flax.traverse_util.unflatten_dict(flat, sep="/")


def _alpha(adapter: Path) -> float:
    config = pathlib.Path(adapter).with_name("config.json")
    if not config.is_file():
        return 64.0
    try:
        return float(json.loads(config.read_text()).get("lora_alpha", 64.0))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{config} does not tell lora_alpha ({error}); repair it") from error
