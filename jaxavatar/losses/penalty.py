"""Robust penalties rho of a distance (the rho of eq. 9).

Both are rho(d) ~ d^2 / (2 width) for d well below `width`, in the unit of d, and smooth at zero,
where a norm has no derivative.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Penalty = Literal["charbonnier", "geman-mcclure"]


def charbonnier(square: Float[Array, "*B"], width: float) -> Float[Array, "*B"]:
    """Return rho(d) = sqrt(d^2 + width^2) - width of squared distances d^2.

    It is linear above `width`, so that a lost keypoint pulls no harder than a wrong one.
    """
    return jnp.sqrt(square + width**2) - width


def geman_mcclure(square: Float[Array, "*B"], width: float) -> Float[Array, "*B"]:
    """Return rho(d) = (width / 2) d^2 / (d^2 + width^2) of squared distances d^2.

    It is bounded by width / 2, so that a lost keypoint does not pull at all (Geman and McClure,
    1987); start near the answer, for far from it there is no slope to follow.
    """
    return 0.5 * width * square / (square + width**2)


_PENALTIES = {"charbonnier": charbonnier, "geman-mcclure": geman_mcclure}


def robust(square: Float[Array, "*B"], width: float, kind: Penalty) -> Float[Array, "*B"]:
    """Return the penalty called `kind` of squared distances.

    Raises:
        ValueError: there is no such penalty.
    """
    if kind not in _PENALTIES:
        raise ValueError(f"no penalty is called {kind!r}; known: {', '.join(_PENALTIES)}")
    return _PENALTIES[kind](square, width)
