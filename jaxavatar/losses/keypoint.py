"""Dense keypoint alignment (paper, eq. 9)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxavatar.losses.penalty import Penalty, robust


def keypoint_distance(
    points: Float[Array, "T K 2"],
    targets: Float[Array, "T K 2"],
    weights: Float[Array, "T K"],
    hand: Bool[Array, " K"],
    hand_weight: float = 1.0,
    width: float = 1.0,
    penalty: Penalty = "charbonnier",
) -> Float[Array, ""]:
    """Average rho of the keypoints' distances (eq. 9, as a mean instead of a sum over frames).

    Args:
        points: our keypoints, pixels: detected in our frames, or projected Gaussians.
        targets: keypoints of the teacher, pixels.
        weights: confidence of each target in [0, 1]; 0 ignores it, whatever its value.
        hand: which of the keypoints belong to a hand.
        hand_weight: lambda_hand.
        width: of the penalty, pixels.
        penalty: rho.

    Returns:
        sum w h rho(|points - targets|) / sum w, pixels, where h is `hand_weight` for hands and 1
        for the face; 0 if all weights are 0.
    """
    # The difference of what is ignored may be anything, NaN included: keep it out of the gradient.
    known = (weights > 0)[..., None]
    difference = jnp.where(known, points - jnp.where(known, targets, 0.0), 0.0)
    distance = robust(jnp.sum(difference**2, axis=-1), width, penalty)
    importance = weights * jnp.where(hand, hand_weight, 1.0)
    return jnp.sum(importance * distance) / jnp.maximum(jnp.sum(weights), 1e-6)
