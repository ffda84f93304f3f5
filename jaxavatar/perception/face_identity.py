"""Whose face it is: a 128-number embedding by a residual network (dlib's, as face-api carries it).

The weights are those of the npm package @vladmandic/face-api: the package is under MIT, the
licence of the weights themselves is not stated. They are not part of this project; whoever names
the files decides whether they may be used.
"""

import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from jaxavatar.errors import InputError

Params = dict[str, Array]
"""By the names of the manifest; "conv32_1/conv2/conv/filters" is [h, w, in, out]."""

SIZE = 150
"""Pixels a side of the faces that the network was trained on."""
LAYERS = (
    *("conv32_1", "conv32_2", "conv32_3", "conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2", "conv256_down", "conv256_1", "conv256_2"),
    "conv256_down_out",
)
_MEAN = np.array([122.782, 117.001, 104.298], np.float32) / 255.0
_MANIFEST = "face_recognition_model-weights_manifest.json"
_NUMBERS = "face_recognition_model.bin"


def load(folder: str | os.PathLike[str]) -> Params:
    """Read the network from the package's folder `model`.

    Raises:
        InputError: a file is missing or damaged.
    """
    folder = pathlib.Path(folder)
    try:
        (group,) = json.loads((folder / _MANIFEST).read_text())
        data = (folder / _NUMBERS).read_bytes()
        params, begin = {}, 0
        for entry in group["weights"]:
            coding = entry.get("quantization")
            kind = np.dtype(np.uint8 if coding else np.float32)
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(data, kind, count, begin).astype(np.float32)
            begin += count * kind.itemsize
            if coding:
                values = values * np.float32(coding["scale"]) + np.float32(coding["min"])
            params[entry["name"]] = jnp.asarray(values.reshape(entry["shape"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot read {_MANIFEST} and {_NUMBERS} in {folder} ({error}); name the folder `model`"
            " of the npm package @vladmandic/face-api 1.7.15"
        ) from error
    return params


def embed(params: Params, faces: Float[Array, "B S S 3"]) -> Float[Array, "B 128"]:
    """Return the embeddings of faces; those of one person lie close together.

    Pure, and differentiable with respect to the pictures.

    Args:
        params: from `load`.
        faces: [0, 1], `SIZE` pixels a side.
    """
    x = _layer(params, "conv32_down", faces - _MEAN, 2, "VALID")
    x = lax.reduce_window(jnp.maximum(x, 0), -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
    for name in LAYERS:
        down = "down" in name
        stride, padding = (2, "VALID") if down else (1, "SAME")
        y = jnp.maximum(_layer(params, f"{name}/conv1", x, stride, padding), 0)
        y = _layer(params, f"{name}/conv2", y, 1, "SAME")
        if down:
            x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
            # Each is filled up with zeros to the size of the other.
            more = [max(a, b) for a, b in zip(x.shape, y.shape, strict=True)]
            x, y = (_fill(part, more) for part in (x, y))
        x = jnp.maximum(x + y, 0)
    return jnp.matmul(x.mean((1, 2)), params["fc"], precision=lax.Precision.HIGHEST)


def _fill(x: Array, shape: list[int]) -> Array:
    return jnp.pad(x, [(0, wanted - size) for size, wanted in zip(x.shape, shape, strict=True)])


def _layer(params: Params, name: str, x: Array, stride: int, padding: str) -> Array:
    y = lax.conv_general_dilated(
        x,
        params[f"{name}/conv/filters"],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    y = y + params[f"{name}/conv/bias"]
    return y * params[f"{name}/scale/weights"] + params[f"{name}/scale/biases"]
