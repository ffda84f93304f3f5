"""Dense keypoint alignment (paper, eq. 9)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def charbonnier(square: Float[Array, "*B"], width: float) -> Float[Array, "*B"]:
    """Return rho(d) = sqrt(d^2 + width^2) - width of squared distances d^2.

    It is quadratic below `width` and linear above, so that a lost keypoint pulls no harder than
    a wrong one, and it is smooth at zero, where a norm has no derivative.
    """
    return jnp.sqrt(square + width**2) - width


def keypoint_distance(
    points: Float[Array, "T K 2"],
    targets: Float[Array, "T K 2"],
    weights: Float[Array, "T K"],
    hand: Bool[Array, " K"],
    hand_weight: float = 1.0,
    width: float = 1.0,
) -> Float[Array, ""]:
    """Average rho of the keypoints' distances (eq. 9, as a mean instead of a sum over frames).

    Args:
        points: keypoints of our Gaussians, pixels.
        targets: keypoints of the teacher, pixels.
        weights: confidence of each target in [0, 1]; 0 ignores it.
        hand: which of the keypoints belong to a hand.
        hand_weight: lambda_hand.
        width: of the Charbonnier penalty, pixels.
    """
    # The difference of what is ignored may be anything, NaN included: keep it out of the gradient.
    known = (weights > 0)[..., None]
    difference = jnp.where(known, points - jnp.where(known, targets, 0.0), 0.0)
    penalty = charbonnier(jnp.sum(difference**2, axis=-1), width)
    importance = weights * jnp.where(hand, hand_weight, 1.0)
    return jnp.sum(importance * penalty) / jnp.maximum(jnp.sum(weights), 1e-6)
