"""Change the size of square images and of grids of positions, as the encoders' training did.

Every resampling here is separable and linear, so it is a matrix per axis. The matrices depend on
sizes alone and are computed in float64 when a program is traced.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def to_square(image: Float[Array, "B H W 3"], size: int) -> Float[Array, "B size size 3"]:
    """Pad with white to a centred square, then resize it.

    Args:
        image: RGB in [0, 1].
        size: of the result, pixels.
    """
    _, height, width, _ = image.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    margins = ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0))
    square = jnp.pad(image, margins, constant_values=1.0)
    matrix = _blurred_cubic(side, size)
    return _apply(square, matrix, matrix)


def resize_grid(
    grid: Float[Array, "R C d"], rows: int, columns: int
) -> Float[Array, "rows columns d"]:
    """Resize learned positions: cubic, antialiased where the grid shrinks."""
    return _apply(
        grid[None],
        _antialiased_cubic(grid.shape[0], rows),
        _antialiased_cubic(grid.shape[1], columns),
    )[0]


def _apply(
    image: Float[Array, "B H W C"], down: Float[np.ndarray, "h H"], across: Float[np.ndarray, "w W"]
) -> Float[Array, "B h w C"]:
    matrices = (jnp.asarray(matrix, image.dtype) for matrix in (down, across))
    return jnp.einsum("bHWc,hH,wW->bhwc", image, *matrices, precision=jax.lax.Precision.HIGHEST)


def _cubic(distance: Float[np.ndarray, "*n"], a: float) -> Float[np.ndarray, "*n"]:
    """Keys' cubic convolution kernel (1981)."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.cache
def _antialiased_cubic(n: int, size: int) -> Float[np.ndarray, "size n"]:
    """Return the kernel with a = -1/2, widened where it shrinks, with weights of sum 1."""
    step = n / size
    centre = (np.arange(size)[:, None] + 0.5) * step - 0.5
    weights = _cubic((np.arange(n) - centre) / max(step, 1.0), -0.5)
    return weights / weights.sum(1, keepdims=True)


@functools.cache
def _blurred_cubic(n: int, size: int) -> Float[np.ndarray, "size n"]:
    """Return the kernel with a = -3/4 on aligned corners, after a Gaussian blur if it shrinks."""
    centre = np.arange(size) * ((n - 1) / max(size - 1, 1))
    first = np.floor(centre).astype(int)
    weights = np.zeros((size, n))
    for tap in range(-1, 3):
        column = np.clip(first + tap, 0, n - 1)  # the border pixel is repeated
        np.add.at(weights, (np.arange(size), column), _cubic(first + tap - centre, -0.75))
    return weights @ _blur(n, n / size) if n > size else weights


def _blur(n: int, factor: float) -> Float[np.ndarray, "n n"]:
    """Return kornia's blur before shrinking: deviation (factor - 1) / 2, two of them each side."""
    deviation = max((factor - 1) / 2, 0.001)
    length = int(max(4 * deviation, 3)) | 1
    offsets = np.arange(length) - length // 2
    kernel = np.exp(-(offsets**2) / (2 * deviation**2))
    weights = np.zeros((n, n))
    for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
        column = np.abs(np.arange(n) + offset)  # borders are mirrored, without the last pixel
        column = np.where(column >= n, 2 * (n - 1) - column, column)
        np.add.at(weights, (np.arange(n), column), weight)
    return weights
