"""Rotated square crops: cut them from an image, and carry points back.

Points are pixels with centres at +0.5; a crop of `size` pixels covers [0, size] x [0, size].
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@flax.struct.dataclass
class Box:
    """A rotated rectangle in an image.

    Attributes:
        center: x, y in pixels.
        size: width, height in pixels (before the rotation).
        angle: clockwise as seen on the screen, radians.
    """

    center: Float[Array, " 2"]
    size: Float[Array, " 2"]
    angle: Float[Array, ""]


def box(x: float, y: float, width: float, height: float | None = None, angle: float = 0) -> Box:
    """Return a box; square when no height is given."""
    size = (width, width if height is None else height)
    return Box(*(jnp.asarray(part, jnp.float32) for part in ((x, y), size, angle)))


def to_image(
    points: Float[Array | np.ndarray, "*N 2"], place: Box, size: int
) -> Float[Array, "*N 2"]:
    """Carry points of a crop of `size` pixels back to the image it was cut from."""
    offset = (points / size - 0.5) * place.size
    cos, sin = jnp.cos(place.angle), jnp.sin(place.angle)
    x, y = offset[..., 0], offset[..., 1]
    return place.center + jnp.stack([x * cos - y * sin, x * sin + y * cos], -1)


def to_crop(
    points: Float[Array | np.ndarray, "*N 2"], place: Box, size: int
) -> Float[Array, "*N 2"]:
    """Carry points of an image into a crop of `size` pixels: the inverse of `to_image`."""
    x, y = jnp.moveaxis(points - place.center, -1, 0)
    cos, sin = jnp.cos(place.angle), jnp.sin(place.angle)
    offset = jnp.stack([x * cos + y * sin, y * cos - x * sin], -1)
    return (offset / place.size + 0.5) * size


def crop(
    image: Float[Array, "H W C"], place: Box, size: int, samples: int = 1
) -> Float[Array, "size size C"]:
    """Cut a crop by bilinear sampling; zero outside the image.

    Differentiable with respect to the image and the box.

    Args:
        image: any value range.
        place: what to cut; it is stretched to a square.
        size: of the crop, pixels.
        samples: points per crop pixel and axis whose mean is taken, against aliasing when the
            crop shrinks the image. `samples_for` suggests a number.
    """
    height, width, channels = image.shape
    fine = size * samples
    rows, columns = jnp.mgrid[:fine, :fine]
    position = to_image(jnp.stack([columns, rows], -1) + 0.5, place, fine) - 0.5
    corner = jnp.floor(position)
    fraction = position - corner

    def tap(dx: int, dy: int) -> Array:
        at = corner.astype(int) + jnp.array([dx, dy])
        inside = jnp.all((at >= 0) & (at < jnp.array([width, height])), -1)
        weight = jnp.prod(jnp.where(jnp.array([dx, dy]) == 1, fraction, 1 - fraction), -1)
        x, y = jnp.clip(at[..., 0], 0, width - 1), jnp.clip(at[..., 1], 0, height - 1)
        return image[y, x] * jnp.where(inside, weight, 0)[..., None]

    sampled = tap(0, 0) + tap(1, 0) + tap(0, 1) + tap(1, 1)
    return sampled.reshape(size, samples, size, samples, channels).mean((1, 3))


def samples_for(place: Box, size: int) -> int:
    """Return how many samples per crop pixel and axis avoid aliasing: 1, 2 or 4.

    Three values only, because each compiles once. Beyond a shrinking of 8 times 4 remain.
    """
    shrink = float(place.size.max()) / size
    return 1 if shrink <= 1.5 else 2 if shrink <= 3 else 4


@functools.partial(jax.jit, static_argnums=(2, 3))
def _crop(image: Array, place: Box, size: int, samples: int) -> Array:
    return crop(image, place, size, samples)


def cut(image: Float[Array, "H W 3"], place: Box, size: int) -> Float[Array, "size size 3"]:
    """Cut a crop on the host side: compiled, with as many samples as it takes."""
    return _crop(image, place, size, samples_for(place, size))
