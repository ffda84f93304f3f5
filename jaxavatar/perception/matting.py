"""The person's coverage of every pixel: coarse answers of two networks, then the photo's own edges.

The segmentation network is exact where a person fills its 256 x 256 input, so it looks at the
person, and closer at the head; the body landmark network adds which person. A guided filter then
makes the matte a locally linear function of the photo's colours, so that it follows edges and
hair. Sources: MediaPipe selfie segmentation; He, Sun & Tang, "Guided Image Filtering" (2013); He &
Sun, "Fast Guided Filter" (2015).
"""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float
from PIL import Image
from scipy import ndimage

from jaxavatar.perception import networks
from jaxavatar.perception.crops import Box, box, cut, pixel_centres, to_crop
from jaxavatar.perception.pose import Person
from jaxavatar.perception.tflite import Network

SIZE = 256
# Longest side at which the filter is solved; its coefficients are then enlarged to the photo.
WORKING = 1024


def coverage_in_crop(network: Network, crop: Float[Array, "256 256 3"]) -> Float[Array, "256 256"]:
    """Return how far each pixel belongs to a person, in [0, 1].

    Pure, and differentiable with respect to the crop.

    Args:
        network: "selfie-segmentation".
        crop: in [0, 1], filled by the person.
    """
    return network(crop)[0][..., 0]


_coverage = jax.jit(coverage_in_crop)


def find(
    image: Float[np.ndarray, "H W 3"], person: Person, head: Box, others: Sequence[Person] = ()
) -> Float[np.ndarray, "H W"]:
    """Return one person's coverage in [0, 1].

    Args:
        image: in [0, 1].
        person: whom to cover.
        head: unrotated box around the person's head.
        others: who must not be covered.
    """
    height, width = image.shape[:2]
    scale = min(1, WORKING / max(height, width))
    rows, columns = round(height * scale), round(width * scale)
    grid = pixel_centres(rows, columns) * (width / columns, height / rows)
    body = _paste(person.mask, person.place, grid)
    whole = _visible(body > 0.5, (width, height))
    coarse = _segment(image, whole, grid)
    head = _within(head, (width, height))
    weight = _paste(_bump(), head, grid)
    coarse += weight * (_segment(image, head, grid) - coarse)
    # Legs and clothes that the segmentation network does not know are sure in the body's mask,
    # whose border is too rough to use, as is all of it at the head.
    inner = _ramp(ndimage.gaussian_filter(person.mask, 0.01 * SIZE), 0.9, 0.99)
    coarse = np.maximum(coarse, _paste(inner, person.place, grid) * (1 - weight))
    # Things far from the body, and other people, are not this person.
    around = _ramp(ndimage.gaussian_filter(person.mask, 0.04 * SIZE), 0.02, 0.2)
    coarse *= _paste(around, person.place, grid)
    for other in others:
        coarse *= 1 - _ramp(_paste(other.mask, other.place, grid) - body, 0, 0.5)
    coarse = keep_component(coarse, body)
    slope, offset = guided_coefficients(
        _resize(image, (rows, columns)),
        coarse,
        # Three pixels of the segmentation network.
        radius=max(2, round(3 * scale * float(whole.size.max()) / SIZE)),
    )
    slope, offset = _resize(slope, (height, width)), _resize(offset, (height, width))
    matte = (slope * image).sum(-1) + offset
    # The filter leaves a faint veil where a colour occurs inside and outside: clear both ends.
    return _ramp(matte, 0.1, 0.9).astype(np.float32)


def guided_coefficients(
    guide: Float[np.ndarray, "H W 3"],
    target: Float[np.ndarray, "H W"],
    radius: int,
    smoothness: float = 1e-4,
) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W"]]:
    """Fit `target` as a linear function of colour in every window, and average the fits.

    The guided filter's result is `(slope * guide).sum(-1) + offset`.

    Args:
        guide: the photo, in [0, 1].
        target: what to fit.
        radius: of the square windows, pixels.
        smoothness: colour variance below which a window counts as flat (epsilon of the paper).

    Returns:
        Slope and offset per pixel (He, Sun & Tang, eq. 19-21).
    """

    def mean(values: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(values, 2 * radius + 1, axes=(0, 1))

    average, level = mean(guide), mean(target)
    products = guide[..., :, None] * guide[..., None, :]
    spread = mean(products) - average[..., :, None] * average[..., None, :]
    spread += smoothness * np.eye(3, dtype=guide.dtype)
    shared = mean(guide * target[..., None]) - average * level[..., None]
    slope = _solve(spread, shared)
    offset = level - (slope * average).sum(-1)
    return mean(slope), mean(offset)


def keep_component(
    matte: Float[np.ndarray, "H W"], body: Float[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W"]:
    """Clear every island of `matte` but the one that shares the most with `body`.

    The soft rim of the kept island stays: pixels belong to the nearest island.
    """
    labels = np.zeros(matte.shape, np.int32)
    count: int = ndimage.label(matte > 0.5, output=labels)  # pyright: ignore[reportAssignmentType]
    if count < 2:
        return matte
    shares = ndimage.sum_labels(body, labels, np.arange(1, count + 1))
    chosen = 1 + int(np.argmax(shares))
    nearest = np.zeros((2, *matte.shape), np.int32)
    ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True, indices=nearest
    )
    return np.where(labels[nearest[0], nearest[1]] == chosen, matte, 0)


def _segment(
    image: Float[np.ndarray, "H W 3"], place: Box, points: Float[np.ndarray, "h w 2"]
) -> Float[np.ndarray, "h w"]:
    """Run the segmentation network on a part of the image; return its answer at `points`."""
    network = networks.load("selfie-segmentation")
    return _paste(np.asarray(_coverage(network, cut(image, place, SIZE))), place, points)


def _paste(
    values: Float[np.ndarray, "S S"], place: Box, points: Float[np.ndarray, "H W 2"]
) -> Float[np.ndarray, "H W"]:
    """Read a crop's values at points of the image; zero outside the crop."""
    spots = np.moveaxis(np.asarray(to_crop(points, place, len(values))), -1, 0) - 0.5
    return ndimage.map_coordinates(values, spots[::-1], order=1, mode="grid-constant")


def _visible(body: np.ndarray, limits: tuple[int, int]) -> Box:
    """Return the box around a mask with a margin, at most twice as high as wide, in the image."""
    scale = limits[0] / body.shape[1]
    spans = []
    for axis in (0, 1):
        inside = np.flatnonzero(body.any(axis))
        low, high = (inside[0], inside[-1] + 1) if len(inside) else (0, body.shape[1 - axis])
        spans.append((scale * (low + high) / 2, 1.5 * scale * (high - low)))
    (x, width), (y, height) = spans
    size = max(width, height / 2), max(height, width / 2)
    return _within(box(x, y, *size), limits)


def _within(place: Box, limits: tuple[int, int]) -> Box:
    """Clip an unrotated box to the image: black borders confuse the segmentation network."""
    center, size = np.asarray(place.center), np.asarray(place.size)
    low, high = np.maximum(0, center - size / 2), np.minimum(limits, center + size / 2)
    (x, y), (width, height) = (low + high) / 2, high - low
    return box(x, y, width, height)


def _bump() -> Float[np.ndarray, "256 256"]:
    """Return a weight that is one in the middle of a crop and falls to zero at its border."""
    at = np.abs(np.linspace(-1, 1, SIZE, dtype=np.float32))
    side = 1 - _ramp(at, 0.5, 0.95)
    return side[:, None] * side


def _ramp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _resize(
    values: Float[np.ndarray, "H W *C"], shape: tuple[int, int]
) -> Float[np.ndarray, "h w *C"]:
    """Resize linearly, without aliasing when shrinking."""
    rows, columns = shape
    planes = values.astype(np.float32).reshape(*values.shape[:2], -1)
    resized = [
        np.asarray(Image.fromarray(plane).resize((columns, rows), Image.Resampling.BILINEAR))
        for plane in np.moveaxis(planes, -1, 0)
    ]
    return np.stack(resized, -1).reshape(*shape, *values.shape[2:])


def _solve(
    matrices: Float[np.ndarray, "*N 3 3"], vectors: Float[np.ndarray, "*N 3"]
) -> Float[np.ndarray, "*N 3"]:
    """Solve symmetric 3x3 systems by cofactors: ten times faster than LAPACK on millions."""
    a, b, c = (matrices[..., i, :] for i in range(3))
    cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], -1)
    determinant = (a * cofactors[..., 0]).sum(-1)
    return (cofactors * vectors[..., None, :]).sum(-1) / determinant[..., None]
