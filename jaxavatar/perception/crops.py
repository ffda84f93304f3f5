"""Rotated square crops: cut them from an image, and carry points back.

`crop` is the pure JAX function, for images that JAX computes. `cut` does the same for a photo on
the host: a compiled crop would compile anew for every size of photo.

Points are pixels with centres at +0.5; a crop of `size` pixels covers [0, size] x [0, size].
"""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from scipy import ndimage

Points = Array | np.ndarray  # on the device or on the host; both work alike


@flax.struct.dataclass
class Box:
    """A rotated rectangle in an image.

    Attributes:
        center: [2] x, y in pixels.
        size: [2] width, height in pixels, before the rotation.
        angle: [] clockwise as seen on the screen, radians.
    """

    center: Points
    size: Points
    angle: Points


def box(x: float, y: float, width: float, height: float | None = None, angle: float = 0) -> Box:
    """Return a box on the host; square when no height is given."""
    size = (width, width if height is None else height)
    return Box(*(np.asarray(part, np.float32) for part in ((x, y), size, angle)))


def square(center: Points, side: Points | float, angle: Points | float) -> Box:
    """Return a square box where its centre is: on the host or on the device."""
    if isinstance(center, Array):
        side = jnp.asarray(side, center.dtype)
        return Box(center, jnp.stack([side, side]), jnp.asarray(angle, center.dtype))
    return box(center[0], center[1], float(side), angle=float(angle))


def to_image(points: Points, place: Box, size: int) -> Points:
    """Carry points [*N, 2] of a crop of `size` pixels to the image it was cut from."""
    return place.center + _turn((points / size - 0.5) * place.size, place.angle)


def to_crop(points: Points, place: Box, size: int) -> Points:
    """Carry points [*N, 2] of an image into a crop of `size` pixels: undoes `to_image`."""
    return (_turn(points - place.center, -place.angle) / place.size + 0.5) * size


def _turn(offset: Points, angle: Points) -> Points:
    xp = jnp if isinstance(offset, Array) or isinstance(angle, Array) else np
    cos, sin = xp.cos(angle), xp.sin(angle)
    x, y = offset[..., 0], offset[..., 1]
    return xp.stack([x * cos - y * sin, x * sin + y * cos], -1)


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
            crop shrinks the image: about half the shrinking.
    """
    height, width, channels = image.shape
    fine = size * samples
    position = jnp.asarray(to_image(jnp.asarray(pixel_centres(fine, fine)), place, fine)) - 0.5
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


def cut(image: Float[np.ndarray, "H W C"], place: Box, size: int) -> Float[np.ndarray, "S S C"]:
    """Cut a crop of `size` pixels on the host: `crop`, with as many samples as it takes.

    Beyond a shrinking of 8 times some aliasing remains, which the networks do not mind.
    """
    samples = int(np.clip(np.ceil(np.max(place.size) / size / 2), 1, 4))
    fine = size * samples
    at = np.moveaxis(np.asarray(to_image(pixel_centres(fine, fine), place, fine)), -1, 0) - 0.5
    planes = [
        ndimage.map_coordinates(plane, at[::-1], order=1, mode="grid-constant")
        for plane in np.moveaxis(image, -1, 0)
    ]
    sampled = np.stack(planes, -1).reshape(size, samples, size, samples, -1)
    return sampled.mean((1, 3), dtype=np.float32)


def pixel_centres(rows: int, columns: int) -> Float[np.ndarray, "rows columns 2"]:
    """Return x and y of every pixel's centre."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32) + 0.5
    return np.stack([x, y], -1)
