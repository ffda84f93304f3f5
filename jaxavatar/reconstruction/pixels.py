"""Distances in pixel masks."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage


def nearest(
    mask: Bool[np.ndarray, "H W"],
) -> tuple[Float[np.ndarray, "H W"], Int[np.ndarray, "2 H W"]]:
    """Return the distance of every pixel to the mask, in pixels, and which pixel of it is nearest.

    Args:
        mask: with at least one pixel set.
    """
    found = ndimage.distance_transform_edt(~mask, return_indices=True)
    assert isinstance(found, tuple)  # scipy's return type depends on its arguments
    distance, index = found
    return np.asarray(distance), np.asarray(index)
