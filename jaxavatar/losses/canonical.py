"""What keeps regressed Gaussians in shape before anything poses them (LHM's ASAP and ACAP).

After Qiu et al., "LHM: Large Animatable Human Reconstruction Model" (ICCV 2025), with the bounds
and weights of the released code. Groups of Gaussians are weighed apart, because hands and arms go
wrong where the photo hides them; a Gaussian of a hand also belongs to the upper body. These are
not the as-rigid-as-possible loss of the paper (`arap`), which compares a pose with the rest.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

SPHERICAL_WEIGHTS = {"head": 1.0, "lower_body": 100.0, "upper_body": 1000.0, "hands": 10_000.0}
CLOSE_WEIGHTS = {"head": 1.0, "lower_body": 1.0, "upper_body": 100.0, "hands": 1000.0}
_RATIO = 5.0  # of the longest to the shortest axis
_SMALLEST = 1e-6  # metres
_REACH = 0.05625  # metres


def as_spherical(
    scales: Float[Array, "*B N 3"],
    groups: Mapping[str, Int[ArrayLike, " n"]],
    weights: Mapping[str, float] = SPHERICAL_WEIGHTS,
) -> Float[Array, ""]:
    """Penalise needles: by how much the axes' ratio exceeds 5, "as spherical as possible".

    Args:
        scales: standard deviations, metres.
        groups: indices of each group's Gaussians; at least one.
        weights: of the groups' means; its keys are those of `groups`.

    Returns:
        The weighted sum over groups of the mean of max(longest / shortest, 5) - 5.

    Raises:
        ValueError: a group is unknown, missing or empty.
    """
    ratio = scales.max(-1) / (scales.min(-1) + _SMALLEST)
    return _weighted(jnp.maximum(ratio - _RATIO, 0.0), groups, weights)


def as_close(
    offsets: Float[Array, "*B N 3"],
    groups: Mapping[str, Int[ArrayLike, " n"]] | None = None,
    weights: Mapping[str, float] = CLOSE_WEIGHTS,
) -> Float[Array, ""]:
    """Penalise Gaussians further than 5.6 cm from their points, "as close as possible".

    Args:
        offsets: from query points to Gaussians in the canonical pose, metres.
        groups: indices of each group's Gaussians; None takes one mean over all.
        weights: of the groups' means; its keys are those of `groups`.

    Returns:
        The weighted sum over groups of the mean of max(|offset|, 0.05625) - 0.05625, metres.

    Raises:
        ValueError: a group is unknown, missing or empty.
    """
    bound = jnp.asarray(_REACH, offsets.dtype)
    # The bound comes before the root, whose derivative has no limit at zero.
    squared = jnp.maximum(jnp.square(offsets).sum(-1), bound * bound)
    excess = jnp.sqrt(squared) - bound
    return excess.mean() if groups is None else _weighted(excess, groups, weights)


def _weighted(
    values: Float[Array, "*B N"],
    groups: Mapping[str, Int[ArrayLike, " n"]],
    weights: Mapping[str, float],
) -> Float[Array, ""]:
    if set(groups) != set(weights):
        raise ValueError(f"groups are {sorted(groups)}, weights are for {sorted(weights)}")
    if empty := [name for name, rows in groups.items() if not np.size(rows)]:
        raise ValueError(f"group {empty[0]!r} is empty")
    means = [weights[name] * values[..., np.asarray(rows)].mean() for name, rows in groups.items()]
    return jnp.stack(means).sum()
