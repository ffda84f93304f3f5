"""The operations of TFLite float graphs in JAX.

Every kernel is `(op, *inputs) -> output` with arrays in TFLite's layout: activations
[1, H, W, C], convolution weights [out, kh, kw, in], depthwise weights [1, kh, kw, C * multiplier].
Products run in full float32 on every device.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Image = Float[Array, "1 H W C"]


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """One operation.

    Attributes:
        kind: TFLite's name of it.
        inputs: tensor numbers, -1 where an optional input is absent.
        output: tensor number.
        shape: of the output.
        options: by the schema's names.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    shape: tuple[int, ...]
    options: dict[str, Any]


_ACTIVATIONS: dict[int, Callable[[Array], Array]] = {
    0: lambda x: x,
    1: jax.nn.relu,
    2: lambda x: jnp.clip(x, -1, 1),
    3: lambda x: jnp.clip(x, 0, 6),
}


def _activate(op: Op, x: Array) -> Array:
    return _ACTIVATIONS[op.options["FusedActivationFunction"]](x)


def _geometry(op: Op) -> tuple[str, tuple[int, int]]:
    """Return padding ("SAME" or "VALID") and stride."""
    return "VALID" if op.options["Padding"] else "SAME", (
        op.options["StrideH"],
        op.options["StrideW"],
    )


def _dilation(op: Op) -> tuple[int, int]:
    return op.options["DilationHFactor"], op.options["DilationWFactor"]


def matmul(x: Float[Array, "... I"], w: Float[Array, "I O"]) -> Float[Array, "... O"]:
    """Multiply in full float32."""
    return jnp.matmul(x, w, precision=lax.Precision.HIGHEST)


def conv(op: Op, x: Image, w: Float[Array, "O h w I"], bias: Array | None = None) -> Image:
    """CONV_2D; 1x1 kernels as one matrix product."""
    padding, stride = _geometry(op)
    if w.shape[1:3] == (1, 1):
        y = matmul(x[:, :: stride[0], :: stride[1]], w[:, 0, 0].T)
    else:
        y = lax.conv_general_dilated(
            x,
            w,
            stride,
            padding,
            rhs_dilation=_dilation(op),
            dimension_numbers=("NHWC", "OHWI", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )
    return _activate(op, y if bias is None else y + bias)


def depthwise(op: Op, x: Image, w: Float[Array, "1 h w M"], bias: Array | None = None) -> Image:
    """DEPTHWISE_CONV_2D as a sum of shifted images.

    XLA compiles it to one loop on the CPU, 8 to 10 times faster than a grouped convolution.
    """
    padding, stride = _geometry(op)
    kernel, dilation = w.shape[1:3], _dilation(op)
    pads = lax.padtype_to_pads(
        x.shape[1:3],
        [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)],
        stride,
        padding,
    )
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    x = jnp.repeat(x, w.shape[3] // x.shape[3], axis=3) if w.shape[3] != x.shape[3] else x
    _, height, width, _ = op.shape
    total = jnp.zeros(()) if bias is None else bias
    for i, j in np.ndindex(*kernel):
        top, left = i * dilation[0], j * dilation[1]
        rows = slice(top, top + (height - 1) * stride[0] + 1, stride[0])
        columns = slice(left, left + (width - 1) * stride[1] + 1, stride[1])
        total = total + x[:, rows, columns] * w[0, i, j]
    return _activate(op, total)


def transposed_conv(op: Op, x: Image, w: Float[Array, "O h w I"], bias: Array) -> Image:
    """MediaPipe's Convolution2DTransposeBias: the transpose of a strided convolution, plus bias."""
    kernel = w.shape[1:3]
    stride = (op.options["stride_h"], op.options["stride_w"])
    pads = []
    for k, s, size, out in zip(kernel, stride, x.shape[1:3], op.shape[1:3], strict=True):
        # Padding 1 is SAME: the forward convolution pads `before` rows at the start.
        before = max(0, k - (size - 1) % s - 1) // 2 if op.options["padding"] == 1 else 0
        pads.append((k - 1 - before, out - ((size - 1) * s + 1) + before))
    y = lax.conv_general_dilated(
        x,
        w[:, ::-1, ::-1],
        (1, 1),
        pads,
        lhs_dilation=stride,
        dimension_numbers=("NHWC", "OHWI", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    return y + bias


def fully_connected(op: Op, x: Array, w: Float[Array, "O I"], bias: Array | None = None) -> Array:
    """FULLY_CONNECTED over the flattened input."""
    y = matmul(x.reshape(-1, w.shape[1]), w.T)
    return _activate(op, y if bias is None else y + bias)


def pool(op: Op, x: Image, *, largest: bool) -> Image:
    """MAX_POOL_2D and AVERAGE_POOL_2D (padding does not count in the average)."""
    padding, stride = _geometry(op)
    kernel = (op.options["FilterHeight"], op.options["FilterWidth"])
    window, steps = (1, *kernel, 1), (1, *stride, 1)
    if largest:
        return _activate(op, lax.reduce_window(x, -jnp.inf, lax.max, window, steps, padding))
    total = lax.reduce_window(x, 0.0, lax.add, window, steps, padding)
    pads = lax.padtype_to_pads(x.shape[1:3], kernel, stride, padding)
    rows, columns = (
        np.convolve(np.pad(np.ones(size), pad), np.ones(k), "valid")[::s]
        for size, pad, k, s in zip(x.shape[1:3], pads, kernel, stride, strict=True)
    )
    count = np.multiply.outer(rows, columns)[..., None].astype(np.float32)
    return _activate(op, total / count)


def pad(op: Op, x: Image, amounts: np.ndarray) -> Image:
    """PAD with zeros.

    Channels are padded by a matrix product: jaxlib's fusion on the CPU computes wrong numbers
    for some graphs that add a channel-padded activation to a convolution.
    """
    spatial = [(int(a), int(b)) for a, b in amounts]
    before, after = spatial.pop()
    if before or after:
        channels = x.shape[-1]
        x = matmul(x, jnp.eye(channels, before + channels + after, before, dtype=x.dtype))
    return jnp.pad(x, (*spatial, (0, 0)))


def resize(op: Op, x: Image, size: np.ndarray) -> Image:
    """RESIZE_BILINEAR as two products with interpolation matrices."""

    def matrix(old: int, new: int) -> np.ndarray:
        at = np.arange(new)
        if op.options["AlignCorners"]:
            position = at * (old - 1) / max(new - 1, 1)
        elif op.options["HalfPixelCenters"]:
            position = (at + 0.5) * old / new - 0.5
        else:
            position = at * old / new
        distance = np.abs(np.clip(position, 0, old - 1)[:, None] - np.arange(old))
        return np.maximum(0, 1 - distance).astype(np.float32)

    rows, columns = (matrix(old, int(new)) for old, new in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("ah,bw,nhwc->nabc", rows, columns, x, precision=lax.Precision.HIGHEST)


def depth_to_space(op: Op, x: Image) -> Image:
    """DEPTH_TO_SPACE: groups of b*b channels become b x b pixels."""
    block = op.options["BlockSize"]
    n, height, width, channels = x.shape
    x = x.reshape(n, height, width, block, block, channels // block**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(op.shape)


def strided_slice(op: Op, x: Array, begin: Array, end: Array, stride: Array) -> Array:
    """STRIDED_SLICE with constant bounds."""
    keys: list[int | slice] = []
    for axis, (first, last, step) in enumerate(zip(begin, end, stride, strict=True)):
        if op.options["ShrinkAxisMask"] >> axis & 1:
            keys.append(int(first))
        else:
            start = None if op.options["BeginMask"] >> axis & 1 else int(first)
            stop = None if op.options["EndMask"] >> axis & 1 else int(last)
            keys.append(slice(start, stop, int(step)))
    return x[tuple(keys)]


def mean(op: Op, x: Array, axes: np.ndarray) -> Array:
    """MEAN over constant axes."""
    return x.mean(tuple(int(axis) for axis in axes), keepdims=bool(op.options["KeepDims"]))


KERNELS: dict[str, Callable[..., Array]] = {
    "ADD": lambda op, x, y: _activate(op, x + y),
    "AVERAGE_POOL_2D": functools.partial(pool, largest=False),
    "CONCATENATION": lambda op, *xs: _activate(op, jnp.concatenate(xs, op.options["Axis"])),
    "CONV_2D": conv,
    "Convolution2DTransposeBias": transposed_conv,
    "DEPTHWISE_CONV_2D": depthwise,
    "DEPTH_TO_SPACE": depth_to_space,
    "FULLY_CONNECTED": fully_connected,
    "HARD_SWISH": lambda _, x: x * jnp.clip(x + 3, 0, 6) / 6,
    "LOGISTIC": lambda _, x: jax.nn.sigmoid(x),
    "MAX_POOL_2D": functools.partial(pool, largest=True),
    "MEAN": mean,
    "MUL": lambda op, x, y: _activate(op, x * y),
    "PAD": pad,
    "PRELU": lambda _, x, slope: jnp.where(x >= 0, x, slope * x),
    "RELU": lambda _, x: jax.nn.relu(x),
    "RESHAPE": lambda op, x, *_: x.reshape(op.shape),
    "RESIZE_BILINEAR": resize,
    "STRIDED_SLICE": strided_slice,
}
