"""Skinning weights from a field in space, for points that lie off the body: hair, loose clothes.

PERSONA (Sim and Moon, 2025) diffuses the template's weights into a grid around the body and lets
every Gaussian read it at thirteen places within two standard deviations of its centre, so that
large Gaussians get smooth weights. Hands and face keep the template's.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

_AXES = np.concatenate([np.eye(3), -np.eye(3)])
_TAPS = np.concatenate([np.zeros((1, 3)), _AXES, 2 * _AXES])  # standard deviations
_SHARES = np.repeat([1.0, 0.5, 0.3], [1, 6, 6])
_NOTHING = 1e-12  # a total weight below which a point counts as outside of the field


def sample_field(
    field: Float[Array, "X Y Z J"],
    low: Float[Array, " 3"],
    high: Float[Array, " 3"],
    points: Float[Array, "*P 3"],
) -> Float[Array, "*P J"]:
    """Interpolate a grid trilinearly; what lies outside counts as zero.

    Args:
        field: values at the grid points.
        low: where the first grid point lies, metres.
        high: where the last one lies.
        points: where to sample, metres.
    """
    counts = np.array(field.shape[:3])
    place = (points - low) / (high - low) * (counts - 1)
    first = jnp.floor(place)
    total = jnp.zeros((*points.shape[:-1], field.shape[-1]), field.dtype)
    for corner in np.ndindex(2, 2, 2):
        cell = first + np.array(corner)
        near = 1 - jnp.abs(place - cell)
        share = near[..., 0] * near[..., 1] * near[..., 2]
        inside = jnp.all((cell >= 0) & (cell <= counts - 1), axis=-1)
        x, y, z = jnp.moveaxis(jnp.clip(cell.astype(int), 0, counts - 1), -1, 0)
        total += (inside * share)[..., None] * field[x, y, z]
    return total


def field_weights(
    field: Float[Array, "X Y Z J"],
    low: Float[Array, " 3"],
    high: Float[Array, " 3"],
    points: Float[Array, "N 3"],
    scales: Float[Array, "N 3"],
    template: Float[Array, "N J"],
    keep: Bool[Array, " N"],
) -> Float[Array, "N J"]:
    """Read skinning weights of Gaussians from a field.

    Args:
        field: skinning weights at grid points, not negative.
        low: where the first grid point lies, canonical metres.
        high: where the last one lies.
        points: canonical centres.
        scales: standard deviations along the axes of the grid, metres.
        template: weights of the nearest vertex.
        keep: which points keep `template` (hands and face); so do points outside of the field.

    Returns:
        Rows sum to one.
    """
    taps = points[:, None] + jnp.asarray(_TAPS, scales.dtype) * scales[:, None]
    read = jnp.einsum(
        "k,nkj->nj",
        jnp.asarray(_SHARES, field.dtype),
        sample_field(field, low, high, taps),
        precision=jax.lax.Precision.HIGHEST,
    )
    total = jnp.sum(read, axis=-1, keepdims=True)
    known = total > _NOTHING
    weights = jnp.where(known, read / jnp.where(known, total, 1.0), template)
    return jnp.where(keep[:, None], template, weights)
