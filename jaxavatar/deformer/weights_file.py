"""The driver's parameters as one small npz: flat arrays and the config, no pickle."""

import dataclasses
import json
import os
import pathlib
import zipfile
from typing import BinaryIO

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from jaxavatar.deformer.config import DriverConfig
from jaxavatar.errors import InputError
from jaxavatar.files import replacing

PACKAGED = pathlib.Path(__file__).parent / "data" / "driver.npz"
"""The weights that ship with the package."""

_CONFIG = "config"


def save_params(
    path: str | os.PathLike[str], params: dict, config: DriverConfig, half: bool = True
) -> None:
    """Write parameters and config.

    Args:
        path: ends in ".npz".
        params: nested dict of arrays, as from `Driver.init`.
        config: what the parameters belong to.
        half: store float16: half the size, and an error below the noise of training.

    Raises:
        InputError: the file cannot be written.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    arrays = {name: np.asarray(leaf, np.float16 if half else None) for name, leaf in flat.items()}
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            allow_pickle=False,
            **{_CONFIG: np.array(json.dumps(dataclasses.asdict(config)))},
            **arrays,
        )


def load_params(
    path: str | os.PathLike[str] | BinaryIO = PACKAGED,
) -> tuple[dict, DriverConfig]:
    """Read what `save_params` wrote; the parameters come back as float32.

    Args:
        path: the file, or an open one.

    Raises:
        InputError: there is no such file, or it does not hold a driver of this version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            fields = json.loads(str(file[_CONFIG]))
            flat = {
                name: jnp.asarray(file[name], jnp.float32) for name in file.files if name != _CONFIG
            }
        fields["periods"] = tuple(fields["periods"])
        config = DriverConfig(**fields)
    except FileNotFoundError as error:
        raise InputError(f"there is no driver at {path}; train one or name another file") from error
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a driver that this version can read; train it again or name another"
            " file"
        ) from error
    return flax.traverse_util.unflatten_dict(flat, sep="/"), config
