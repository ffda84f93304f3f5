"""Real spherical harmonics up to degree 3, the field's way to let colour depend on direction."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

SH_DEGREES = {1: 0, 4: 1, 9: 2, 16: 3}
"""Degree by number of coefficients."""


def sh_colors(
    coeffs: Float[Array, "N K C"], directions: Float[Array, "N 3"]
) -> Float[Array, "N C"]:
    """Evaluate spherical harmonics in given directions.

    Order and signs are those of 3D Gaussian Splatting (Sloan, "Stupid Spherical Harmonics Tricks",
    2008, with the Condon-Shortley phase), so a published scene's coefficients can be used as they
    are. Its colours are `maximum(sh_colors(...) + 0.5, 0)`.

    Args:
        coeffs: K = (degree + 1)^2 coefficients per channel, degree 0 to 3.
        directions: from the camera to each Gaussian, of any length; those too short to be
            squared give finite numbers without meaning.

    Returns:
        The sum of coefficients times basis functions.

    Raises:
        ValueError: K is none of 1, 4, 9, 16, or the shapes disagree.
    """
    if coeffs.ndim != 3 or coeffs.shape[1] not in SH_DEGREES:
        raise ValueError(f"coeffs must be [N, 1 | 4 | 9 | 16, C], got shape {coeffs.shape}")
    if directions.shape != (coeffs.shape[0], 3):
        raise ValueError(
            f"directions must have shape {(coeffs.shape[0], 3)}, got {directions.shape}"
        )
    squared = jnp.sum(directions * directions, axis=-1, keepdims=True)
    somewhere = squared > jnp.finfo(squared.dtype).tiny
    unit = directions * lax.rsqrt(jnp.where(somewhere, squared, 1))
    basis = _basis(unit, SH_DEGREES[coeffs.shape[1]])
    # On CPUs twice as fast as a product and a sum.
    return jnp.einsum("nk,nkc->nc", basis, coeffs, precision="highest")


def _basis(unit: Float[Array, "N 3"], degree: int) -> Float[Array, "N K"]:
    x, y, z = unit[:, 0], unit[:, 1], unit[:, 2]
    c0 = 0.5 * math.sqrt(1 / math.pi)
    terms = [jnp.full_like(x, c0)]
    if degree >= 1:
        c1 = 0.5 * math.sqrt(3 / math.pi)
        terms += [-c1 * y, c1 * z, -c1 * x]
    if degree >= 2:
        c2 = 0.5 * math.sqrt(15 / math.pi)
        terms += [
            c2 * x * y,
            -c2 * y * z,
            0.25 * math.sqrt(5 / math.pi) * (3 * z * z - 1),
            -c2 * x * z,
            0.5 * c2 * (x * x - y * y),
        ]
    if degree >= 3:
        c33 = 0.25 * math.sqrt(35 / (2 * math.pi))
        c32 = 0.5 * math.sqrt(105 / math.pi)
        c31 = 0.25 * math.sqrt(21 / (2 * math.pi))
        terms += [
            -c33 * y * (3 * x * x - y * y),
            c32 * x * y * z,
            -c31 * y * (5 * z * z - 1),
            0.25 * math.sqrt(7 / math.pi) * z * (5 * z * z - 3),
            -c31 * x * (5 * z * z - 1),
            0.5 * c32 * z * (x * x - y * y),
            -c33 * x * (x * x - 3 * y * y),
        ]
    return jnp.stack(terms, axis=-1)
