"""Frechet distance of two sets of features, the formula of FID and FVD.

Each set counts as a Gaussian: |m - m'|² + tr(C + C' - 2 (C C')^½), in float64 (Heusel et al., 2017;
Unterthiner et al., 2019). FID is that of Inception-v3's pooled features of all frames, FVD that of
I3D's features of clips; with features of another network it is another measure and must not carry
their names. With fewer vectors than dimensions the covariance is singular and the distance
biased upwards: give their number beside it.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over N vectors of D numbers; add two to join their sets.

    Attributes:
        count: N.
        total: sum of the vectors.
        products: sum of their outer products.
    """

    count: int
    total: Float[np.ndarray, " D"]
    products: Float[np.ndarray, "D D"]

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.total + other.total, self.products + other.products
        )

    def gaussian(self) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]:
        """Return the mean and the unbiased covariance.

        Raises:
            ValueError: fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two vectors, got {self.count}")
        mean = self.total / self.count
        covariance = (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean, covariance


def moments(features: Float[np.ndarray | Array, "N D"]) -> Moments:
    """Sum features up, in float64."""
    rows = np.asarray(features, np.float64)
    return Moments(len(rows), rows.sum(0), rows.T @ rows)


def frechet_distance(ours: Moments, theirs: Moments) -> float:
    """Return the squared Frechet distance of the Gaussians of two sets.

    The trace of (C C')^½ is that of the symmetric (C^½ C' C^½)^½, whose eigenvalues are not
    negative but for rounding: no complex root and no offset on the diagonal is needed.

    Raises:
        ValueError: a set has fewer than two vectors.
    """
    mean, covariance = ours.gaussian()
    other_mean, other_covariance = theirs.gaussian()
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    both = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)).sum()
    apart = float(((mean - other_mean) ** 2).sum())
    # Equal sets may come out a rounding error below zero.
    return max(apart + float(np.trace(covariance) + np.trace(other_covariance) - 2 * both), 0.0)
