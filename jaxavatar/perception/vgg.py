"""VGG16's convolutions, as LPIPS looks at them.

Sources: Simonyan and Zisserman, "Very Deep Convolutional Networks" (2014); torchvision's weights;
LPIPS's scaling of its input. Weights are imported: `jaxavatar weights import lpips`.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxavatar.errors import InputError
from jaxavatar.weights.tensor_file import SafetensorsFile

Params = dict[str, Any]
"""Nested dict of arrays, see `SHAPES`."""

_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CHANNELS = tuple(f"layer{number}" for number in range(len(_WIDTHS)))
"""Names of the learned weights of each compared layer's channels."""

# The mean and the spread of colours, for pictures in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for stage, widths in enumerate(_WIDTHS):
        for number, width in enumerate(widths):
            shapes[f"conv{stage}_{number}/kernel"] = (3, 3, before, width)
            shapes[f"conv{stage}_{number}/bias"] = (width,)
            before = width
        shapes[f"channels/layer{stage}"] = (before,)
    return shapes


SHAPES = _shapes()
"""Shape of every parameter by its path, joined by "/"."""


def load_lpips(path: str | os.PathLike[str]) -> Params:
    """Load what `weights import lpips` wrote.

    Raises:
        InputError: no such file, or it lacks some of the parameters.
    """
    file = SafetensorsFile(path)
    params: Params = {}
    missing = [name for name in SHAPES if name not in file]
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of {len(SHAPES)} parameters, {missing[0]} for one; import"
            " both VGG16 and LPIPS's linear layers into it (jaxavatar weights import lpips)"
        )
    for name, shape in SHAPES.items():
        array = file[name]
        if array.shape != shape:
            raise InputError(
                f"{path}: {name} has the shape {array.shape}, not {shape}; import anew"
            )
        folder, leaf = name.split("/")
        params.setdefault(folder, {})[leaf] = array.astype("float32")
    return jax.device_put(params)


def features(
    params: Params, images: Float[Array, "*B H W 3"]
) -> tuple[Float[Array, "*B h w C"], ...]:
    """Return the activations before each pooling, and the last.

    Pure, and differentiable with respect to parameters and pictures.

    Args:
        params: from `load_lpips`.
        images: [0, 1].

    Returns:
        Five maps, at 1/1 to 1/16 of the pictures' size.
    """
    x = images.reshape(-1, *images.shape[-3:])
    x = (2.0 * x - 1.0 - jnp.array(_SHIFT, x.dtype)) / jnp.array(_SCALE, x.dtype)
    found = []
    for stage, widths in enumerate(_WIDTHS):
        if stage:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for number in range(len(widths)):
            layer = params[f"conv{stage}_{number}"]
            x = lax.conv_general_dilated(
                x,
                layer["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=lax.Precision.HIGHEST,
            )
            x = jax.nn.relu(x + layer["bias"])
        found.append(x.reshape(*images.shape[:-3], *x.shape[1:]))
    return tuple(found)
