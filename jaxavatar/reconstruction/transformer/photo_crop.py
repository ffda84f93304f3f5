"""The person's part of a photo, framed and sized as the transformer's training photos were.

The steps are those of LHM's inference (fixed sizes and roundings included, since checkpoints know
them): cut out the person with a margin, bring the picture to 5 : 3 with white (standing people
keep their feet at the lower border: height is added above them), put white behind the person,
resize, and cut to the smallest 5 : 3 picture around the centre that holds the person.
"""

import functools

import numpy as np
from jaxtyping import Float, UInt8

ASPECT = 5 / 3  # height to width
_MARGIN = 1.1
_LONGER_SIDE = 896
_MULTIPLE = 14


def crop_person(
    photo: UInt8[np.ndarray, "H W 3"],
    matte: Float[np.ndarray, "H W"],
    size: int,
    longer_side: int = _LONGER_SIDE,
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Frame the person.

    Args:
        photo: sRGB.
        matte: in [0, 1]; above one half is the person.
        size: width of the result before it is rounded down to whole patches of 14 pixels; the
            height is 5/3 of it, rounded likewise. 1024 for LHM's 500m and 1b, 512 for mini.
        longer_side: to which the picture is resized on the way.

    Returns:
        The picture on white, RGB in [0, 1], and the resized matte.

    Raises:
        ValueError: the matte is empty.
    """
    person = (matte > 0.5).astype(np.float64)
    left, top, right, bottom = person_box(person)
    cut, person = photo[top:bottom, left:right] / 255.0, person[top:bottom, left:right]
    picture = _to_aspect(np.concatenate([cut, person[:, :, None]], axis=2))
    alpha = picture[:, :, 3:]
    picture = np.concatenate([picture[:, :, :3] * alpha + 1 - alpha, alpha], axis=2)
    ratio = longer_side / max(picture.shape[:2])
    picture = resize_area(picture, round(picture.shape[0] * ratio), round(picture.shape[1] * ratio))
    picture = _centred(picture)
    height, width = (int(side / _MULTIPLE) * _MULTIPLE for side in (size * ASPECT, size))
    picture = resize_area(picture, height, width).astype(np.float32)
    return picture[:, :, :3], picture[:, :, 3]


def person_box(person: Float[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the person with a margin, inside the picture.

    Args:
        person: not zero where the person is.

    Raises:
        ValueError: there is no person.
    """
    rows, columns = np.nonzero(person)
    if not rows.size:
        raise ValueError("the matte is empty: there is no person to crop")
    sides = []
    for places, limit in ((columns, person.shape[1]), (rows, person.shape[0])):
        first, last = int(places.min()), int(places.max())
        half = int((last - first) * _MARGIN) // 2
        centre = (first + last) // 2
        sides.append((max(0, centre - half), min(limit, centre + half)))
    (left, right), (top, bottom) = sides
    return left, top, max(right, left + 1), max(bottom, top + 1)


def resize_area(
    image: Float[np.ndarray, "H W C"], height: int, width: int
) -> Float[np.ndarray, "height width C"]:
    """Resize as OpenCV's INTER_AREA: means over areas, and between pixels where a side grows."""
    matrix = _area if height <= image.shape[0] and width <= image.shape[1] else _between
    rows = np.tensordot(matrix(image.shape[0], height), image, 1)
    columns = np.tensordot(matrix(image.shape[1], width), rows, (1, 1))
    return columns.transpose(1, 0, 2)


def _to_aspect(picture: Float[np.ndarray, "H W 4"]) -> Float[np.ndarray, "h w 4"]:
    """Add white to both sides, or above, up to the aspect."""
    height, width = picture.shape[:2]
    if height / width > ASPECT:
        added = int(height / ASPECT) - width
        margins = ((0, 0), (added // 2, added - added // 2), (0, 0))
    else:
        margins = ((int(width * ASPECT) - height, 0), (0, 0), (0, 0))
    colors = np.pad(picture[:, :, :3], margins, constant_values=1.0)
    return np.concatenate([colors, np.pad(picture[:, :, 3:], margins)], axis=2)


def _centred(picture: Float[np.ndarray, "H W 4"]) -> Float[np.ndarray, "h w 4"]:
    """Cut to the smallest picture of the aspect around the centre that holds the person."""
    rows, columns = np.nonzero(picture[:, :, 3])
    middle_y, middle_x = (side // 2 for side in picture.shape[:2])
    reach_y = max(middle_y - int(rows.min()), int(rows.max()) - middle_y, 1)
    reach_x = max(middle_x - int(columns.min()), int(columns.max()) - middle_x, 1)
    half_y, half_x = reach_y, reach_x
    if reach_y / reach_x >= ASPECT:
        half_x = round(reach_y / ASPECT)
    else:
        half_y = round(reach_x * ASPECT)
    half_y, half_x = min(half_y, middle_y), min(half_x, middle_x)
    return picture[middle_y - half_y : middle_y + half_y, middle_x - half_x : middle_x + half_x]


@functools.lru_cache(maxsize=16)
def _area(n: int, size: int) -> Float[np.ndarray, "size n"]:
    """Return the share of each pixel's area in each new pixel."""
    step = n / size
    first = np.arange(size)[:, None] * step
    pixel = np.arange(n)
    shares = np.minimum(pixel + 1, first + step) - np.maximum(pixel, first)
    return np.maximum(shares, 0.0) / step


@functools.lru_cache(maxsize=16)
def _between(n: int, size: int) -> Float[np.ndarray, "size n"]:
    """Return OpenCV's weights for areas that grow: linear, but only where two pixels meet."""
    new = np.arange(size)
    pixel = np.floor(new * (n / size)).astype(int)
    share = (new + 1) - (pixel + 1) * (size / n)
    share = np.where(share <= 0, 0.0, share - np.floor(share))
    weights = np.zeros((size, n))
    np.add.at(weights, (new, pixel), 1 - share)
    np.add.at(weights, (new, np.minimum(pixel + 1, n - 1)), share)
    return weights
