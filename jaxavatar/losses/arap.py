"""As-rigid-as-possible deformation on a graph of neighbours (paper, sec. 3.3, L_reg).

After Sorkine and Alexa (SGP 2007): the edges from a point to its neighbours should be those of
the canonical shape, turned by one matrix per point. That matrix is not fitted: it is the linear
part of the skinning, so bending a joint costs next to nothing and what is penalised is how the
offsets of neighbours differ.
"""

import jax.numpy as jnp
import numpy as np
import scipy.spatial
from jaxtyping import Array, Float, Int


def neighbour_graph(points: Float[np.ndarray, "N 3"], k: int) -> Int[np.ndarray, "N k"]:
    """Return the indices of the k nearest other points of each point (host side).

    Raises:
        ValueError: there are no k other points.
    """
    if len(points) <= k:
        raise ValueError(f"{k} neighbours need more than {k} points, got {len(points)}")
    nearest = np.asarray(scipy.spatial.KDTree(points).query(points, k + 1)[1])
    # Points may coincide, so a point need not come first among its own neighbours.
    itself = nearest == np.arange(len(points))[:, None]
    itself[~itself.any(axis=1), -1] = True
    return nearest[~itself].reshape(len(points), k)


def arap(
    canonical: Float[Array, "N 3"],
    posed: Float[Array, "N 3"],
    rotations: Float[Array, "N 3 3"],
    neighbours: Int[Array, "N k"],
) -> Float[Array, ""]:
    """Return the mean squared strain of the edges.

    Args:
        canonical: undeformed points, metres.
        posed: deformed points, metres.
        rotations: how the surroundings of each point turned.
        neighbours: from `neighbour_graph` of the canonical points.

    Returns:
        sum_ij |(q_j - q_i) - R_i (p_j - p_i)|^2 / sum_ij |p_j - p_i|^2: no unit, 0 if rigid.
    """
    edges = canonical[neighbours] - canonical[:, None]
    turned = jnp.einsum("nab,nkb->nka", rotations, edges)
    strain = posed[neighbours] - posed[:, None] - turned
    return jnp.sum(strain**2) / jnp.maximum(jnp.sum(edges**2), 1e-12)
