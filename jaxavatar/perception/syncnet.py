"""SyncNet: do lips and sound belong together?

Source: Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016), as released
(`syncnet_v2.model`). The user must fetch the weights: MIT is the licence of the code beside them,
theirs is not stated. Two towers turn five frames of a face, and the 0.2 s of sound beside them,
into vectors that lie close together when they agree.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxavatar.errors import InputError
from jaxavatar.weights.torch_pickle import read_pickled

Params = dict[str, dict[str, Array]]

SIDE = 224
"""Pixels a side of the faces."""
FRAMES = 5
STEPS = 20
"""Cepstra, 10 ms apart, beside five frames."""
COEFFICIENTS = 13

_EPSILON = 1e-5  # of the batch normalisations
# Of each convolution: its number in the release, stride, padding; then the pooling after it: size,
# stride, padding. The lips' first convolution sees all five frames, the others one.
_Layer = tuple[int, int, int, tuple[int, tuple[int, int], int] | None]
_LIPS: tuple[_Layer, ...] = (
    (0, 2, 0, (3, (2, 2), 0)),
    (4, 2, 1, (3, (2, 2), 1)),
    (8, 1, 1, None),
    (11, 1, 1, None),
    (14, 1, 1, (3, (2, 2), 0)),
    (18, 1, 0, None),
)
_SOUND: tuple[_Layer, ...] = (
    (0, 1, 1, None),
    (4, 1, 1, (3, (1, 2), 0)),
    (8, 1, 1, None),
    (11, 1, 1, None),
    (14, 1, 1, (3, (2, 2), 0)),
    (18, 1, 0, None),
)


def load(path: str | os.PathLike[str]) -> Params:
    """Read the released file, a PyTorch state dict, without running what it holds.

    Raises:
        InputError: the file is missing, damaged, or another network's.
    """
    tensors = read_pickled(path)
    try:
        return jax.device_put(fold(tensors))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} is not SyncNet ({error}); name the file syncnet_v2.model of its release"
        ) from error


def fold(tensors: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Fold a state dict's batch normalisations into the layers before them.

    Returns:
        "lips/N" and "sound/N" for convolution N of the release, and two linear layers of each,
        "lips/dense0" and "lips/dense1": kernel [h, w, in, out] or [in, out], and bias.
    """

    def folded(module: str, number: int, norm: bool) -> tuple[np.ndarray, np.ndarray]:
        def get(place: int, leaf: str) -> np.ndarray:
            return np.asarray(tensors[f"{module}.{place}.{leaf}"], np.float64)

        kernel, bias = get(number, "weight"), get(number, "bias")
        if norm:
            scale = get(number + 1, "weight") / np.sqrt(get(number + 1, "running_var") + _EPSILON)
            kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
            bias = (bias - get(number + 1, "running_mean")) * scale + get(number + 1, "bias")
        return kernel, bias

    params: dict[str, dict[str, np.ndarray]] = {}
    for tower, layers, short in (("lips", _LIPS, "lip"), ("sound", _SOUND, "aud")):
        for number, *_ in layers:
            kernel, bias = folded(f"netcnn{short}", number, True)
            if kernel.ndim == 5:  # frames become channels
                kernel = kernel.transpose(3, 4, 2, 1, 0).reshape(*kernel.shape[3:], -1, len(bias))
            else:
                kernel = kernel.transpose(2, 3, 1, 0)
            params[f"{tower}/{number}"] = _single(kernel, bias)
        for place, number in enumerate((0, 3)):
            kernel, bias = folded(f"netfc{short}", number, number == 0)
            params[f"{tower}/dense{place}"] = _single(kernel.T, bias)
    return params


def _single(kernel: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def embed_lips(params: Params, faces: Float[Array, "B 5 224 224 3"]) -> Float[Array, "B 1024"]:
    """Return the vectors of five frames each.

    Args:
        params: from `load`.
        faces: RGB in [0, 1]; the network's own order is BGR, to 255.
    """
    stacked = jnp.moveaxis(255 * faces[..., ::-1], 1, 3)
    return _tower(params, "lips", _LIPS, stacked.reshape(*stacked.shape[:3], -1))


def embed_sound(params: Params, cepstra: Float[Array, "B 13 20"]) -> Float[Array, "B 1024"]:
    """Return the vectors of 0.2 s of sound each; see `metrics.sync.cepstra`."""
    return _tower(params, "sound", _SOUND, cepstra[..., None])


def _tower(params: Params, tower: str, layers: tuple[_Layer, ...], x: Array) -> Array:
    for number, stride, pad, pool in layers:
        layer = params[f"{tower}/{number}"]
        x = lax.conv_general_dilated(
            x,
            layer["kernel"],
            (stride, stride),
            [(pad, pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
        x = jax.nn.relu(x + layer["bias"])
        if pool is not None:
            size, strides, around = pool
            edges = [(0, 0), (around, around), (around, around), (0, 0)]
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, *strides, 1), edges)
    first, second = params[f"{tower}/dense0"], params[f"{tower}/dense1"]
    exact = lax.Precision.HIGHEST
    x = jnp.matmul(x.reshape(len(x), -1), first["kernel"], precision=exact) + first["bias"]
    return jnp.matmul(jax.nn.relu(x), second["kernel"], precision=exact) + second["bias"]
