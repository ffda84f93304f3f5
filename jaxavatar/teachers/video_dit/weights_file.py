"""The teacher's parameters as one npz: flat arrays and the config, no pickle."""

import dataclasses
import json
import os
import pathlib
import zipfile
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from jaxavatar.errors import InputError
from jaxavatar.files import replacing
from jaxavatar.teachers.protocol import Params
from jaxavatar.teachers.video_dit.config import AutoencoderConfig, VideoDiTConfig

PACKAGED = pathlib.Path(__file__).parent / "data" / "tiny.npz"
"""The weights that ship with the package."""

_CONFIG = "config"


def save_params(path: str | os.PathLike[str], params: Params, config: VideoDiTConfig) -> None:
    """Write parameters, as float16, and config.

    Raises:
        InputError: the file cannot be written.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    arrays: dict[str, Any] = {name: np.asarray(leaf, np.float16) for name, leaf in flat.items()}
    arrays[_CONFIG] = np.array(json.dumps(dataclasses.asdict(config)))
    with replacing(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)


def load_params(path: str | os.PathLike[str] = PACKAGED) -> tuple[Params, VideoDiTConfig]:
    """Read what `save_params` wrote; the parameters come back as float32.

    Raises:
        InputError: there is no such file, or it does not hold such a teacher.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            fields = json.loads(str(file[_CONFIG]))
            flat = {
                name: jnp.asarray(file[name], jnp.float32) for name in file.files if name != _CONFIG
            }
        if fields["autoencoder"] is not None:
            coder = fields["autoencoder"] | {"widths": tuple(fields["autoencoder"]["widths"])}
            fields["autoencoder"] = AutoencoderConfig(**coder)
        config = VideoDiTConfig(**fields)
    except FileNotFoundError as error:
        raise InputError(
            f"there is no video teacher at {path}; train one or name another file"
        ) from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a video teacher that this version can read; train it again or name"
            " another file"
        ) from error
    return flax.traverse_util.unflatten_dict(flat, sep="/"), config
