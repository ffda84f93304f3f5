"""Twists to rigid transforms: the exponential map and its integration over time (eq. 2).

A twist is `(v, omega)`, metres and radians, as in jaxlie. Two ways to integrate twists xi_t:

- "paper", eq. 2 as printed: T_t = exp(xi_t) T_{t-1}. What is carried between chunks is T. Nothing
  pulls T back, so errors add up over long speech.
- "leaky": zeta_t = rate * zeta_{t-1} + xi_t and T_t = exp(zeta_t). The twists are summed in the
  tangent space of the rest pose, which forgets: |zeta| stays below |xi| / (1 - rate). What is
  carried is zeta.

Both recurrences are associative, so `jax.lax.associative_scan` evaluates them in O(log T) depth,
and both continue exactly from the carried state.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Float

Integration = Literal["paper", "leaky"]

_SERIES_BELOW = 0.1  # radians; the truncated series is exact to 1e-14 there


def exp(twist: Float[Array, "*B 6"]) -> jaxlie.SE3:
    """Map twists to rigid transforms, differentiable to any order everywhere, zero included.

    jaxlie's map replaces the left Jacobian by the rotation matrix near zero, where its derivative
    is wrong by a factor of two; training starts at exactly zero twist, so this one uses series.
    """
    v, omega = twist[..., :3], twist[..., 3:]
    square = jnp.sum(omega**2, axis=-1, keepdims=True)
    small = square < _SERIES_BELOW**2
    safe = jnp.where(small, 1.0, square)
    angle = jnp.sqrt(safe)
    # cos(angle / 2), sin(angle / 2) / angle, (1 - cos) / angle^2, (angle - sin) / angle^3
    half_cos = jnp.where(small, _series(square, (1, -8, 384, -46_080)), jnp.cos(angle / 2))
    half_sinc = jnp.where(
        small, _series(square, (2, -48, 3840, -645_120)), jnp.sin(angle / 2) / angle
    )
    first = jnp.where(
        small, _series(square, (2, -24, 720, -40_320)), 2 * (jnp.sin(angle / 2) / angle) ** 2
    )
    second = jnp.where(
        small, _series(square, (6, -120, 5040, -362_880)), (angle - jnp.sin(angle)) / (safe * angle)
    )
    turned = jnp.cross(omega, v)
    translation = v + first * turned + second * jnp.cross(omega, turned)
    return jaxlie.SE3(jnp.concatenate([half_cos, half_sinc * omega, translation], axis=-1))


def _series(square: Float[Array, "*B 1"], denominators: tuple[int, ...]) -> Float[Array, "*B 1"]:
    """Sum square^n / denominator_n by Horner's rule."""
    total = jnp.zeros_like(square)
    for denominator in reversed(denominators):
        total = total * square + 1.0 / denominator
    return total


def rest_state(joints: int, integration: Integration) -> Float[Array, "M S"]:
    """Return the carried state of a body at rest: identities (S = 7) or zero twists (S = 6)."""
    if integration == "paper":
        return jaxlie.SE3.identity((joints,)).wxyz_xyz
    return jnp.zeros((joints, 6))


def integrate(
    twists: Float[Array, "T M 6"],
    state: Float[Array, "M S"],
    rate: Float[Array, " M"],
    integration: Integration,
) -> tuple[jaxlie.SE3, Float[Array, "M S"]]:
    """Integrate the twists of a clip, or of a chunk of one.

    Args:
        twists: one per frame and joint.
        state: what the previous chunk returned, or `rest_state`.
        rate: per-joint memory in (0, 1), used by "leaky" only.
        integration: see the module docstring.

    Returns:
        The transforms with batch shape `(T, M)`, and the state after the last frame.
    """
    if integration == "paper":
        steps = exp(twists).wxyz_xyz
        start = jaxlie.SE3(steps[0]) @ jaxlie.SE3(state)
        steps = steps.at[0].set(start.wxyz_xyz)
        path = jax.lax.associative_scan(
            lambda early, late: (jaxlie.SE3(late) @ jaxlie.SE3(early)).wxyz_xyz, steps
        )
        # Products of rounded quaternions leave the unit sphere slowly; the carried one must not.
        return jaxlie.SE3(path), jaxlie.SE3(path[-1]).normalize().wxyz_xyz

    decay = jnp.broadcast_to(rate[None, :, None], twists.shape)
    inputs = twists.at[0].add(rate[:, None] * state)
    _, path = jax.lax.associative_scan(
        lambda early, late: (late[0] * early[0], late[0] * early[1] + late[1]), (decay, inputs)
    )
    return exp(path), path[-1]
