"""Read the mouth's opening off small pictures, with a probe fitted to one face.

A 64-pixel picture of a face is too small for a landmark detector. But for one person and one
camera, how open the mouth is can be read off the pixels of its region by ridge regression, once
pictures with known openings are at hand. How well the probe does on other pictures with known
openings bounds what can be said with it, and belongs beside every figure got by it.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

_RIDGE = 1e-3  # of the mean squared pixel


@dataclasses.dataclass(frozen=True)
class MouthProbe:
    """Reads openings; see `fit_probe`."""

    region: Bool[np.ndarray, "H W"]
    mean: Float[np.ndarray, " D"]
    weights: Float[np.ndarray, " D"]
    bias: float

    def __call__(self, frames: Float[np.ndarray, "N H W 3"]) -> Float[np.ndarray, " N"]:
        """Return the opening in each picture, in the unit it was fitted to."""
        return (_pixels(frames, self.region) - self.mean) @ self.weights + self.bias


def fit_probe(
    frames: Float[np.ndarray, "N H W 3"],
    openings: Float[np.ndarray, " N"],
    region: Bool[np.ndarray, "H W"],
) -> MouthProbe:
    """Fit a probe to pictures with known openings.

    Args:
        frames: of one person by one camera, [0, 1].
        openings: of the mouth, any unit.
        region: which pixels to read.

    Raises:
        ValueError: the region is empty, or there are no pictures.
    """
    pixels = _pixels(frames, region)
    if not pixels.size:
        raise ValueError(f"a probe needs pictures and a region, got {pixels.shape}")
    mean, bias = pixels.mean(0), float(openings.mean())
    centred = pixels - mean
    # Fewer pictures than pixels: solve in the pictures' space.
    gram = centred @ centred.T
    gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)) + 1e-12 * np.eye(len(gram))
    weights = centred.T @ np.linalg.solve(gram, openings - bias)
    return MouthProbe(region, mean, weights, bias)


def _pixels(frames: Float[np.ndarray, "N H W 3"], region: np.ndarray) -> np.ndarray:
    return np.asarray(frames, float)[:, region].reshape(len(frames), -1)
