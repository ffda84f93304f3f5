"""Linear blend skinning and its inverse."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def skin(
    points: Float[Array, "N 3"],
    weights: Float[Array, "N J"],
    transforms: Float[Array, "J 3 4"],
) -> tuple[Float[Array, "N 3"], Float[Array, "N 3 3"]]:
    """Move canonical points by the blend of the joints' transforms.

    Args:
        points: canonical metres.
        weights: skinning weights, rows sum to one.
        transforms: canonical to world, from `kinematics.skinning_transforms`.

    Returns:
        The moved points, and the blended 3x3 matrix of each point: the derivative of its motion,
        so a covariance C moves to `linear C linear^T`. Blending makes it shrink near a bent
        joint, so it is not a rotation there.
    """
    linear, offset = _blend(weights, transforms)
    moved = jnp.einsum("nab,nb->na", linear, points, precision=jax.lax.Precision.HIGHEST)
    return moved + offset, linear


def inverse_skin(
    points: Float[Array, "N 3"],
    weights: Float[Array, "N J"],
    transforms: Float[Array, "J 3 4"],
) -> Float[Array, "N 3"]:
    """Carry posed points back to the canonical frame: solve `skin(x) = points` for x.

    The 3x3 systems are solved by Cramer's rule. The result is not finite where a blend is
    singular, which takes joints that turn against each other by pi.

    Args:
        points: posed points, world metres.
        weights: skinning weights of the same points, rows sum to one.
        transforms: as for `skin`.

    Returns:
        Canonical points, metres.
    """
    linear, offset = _blend(weights, transforms)
    rhs = points - offset
    a, b, c = (linear[:, :, k] for k in range(3))
    bc = jnp.cross(b, c)
    numerators = (jnp.sum(normal * rhs, -1) for normal in (bc, jnp.cross(c, a), jnp.cross(a, b)))
    return jnp.stack(list(numerators), axis=-1) / jnp.sum(a * bc, -1, keepdims=True)


def _blend(
    weights: Float[Array, "N J"], transforms: Float[Array, "J 3 4"]
) -> tuple[Float[Array, "N 3 3"], Float[Array, "N 3"]]:
    blended = jnp.einsum("nj,jab->nab", weights, transforms, precision=jax.lax.Precision.HIGHEST)
    return blended[:, :, :3], blended[:, :, 3]
