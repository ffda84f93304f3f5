"""Levenberg-Marquardt for a few hundred unknowns, as one compiled loop."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def levenberg_marquardt(
    residuals: Callable[[Float[Array, " P"], Float[Array, ""]], Float[Array, " R"]],
    start: Float[Array, " P"],
    schedule: Float[Array, " steps"],
) -> tuple[Float[Array, " P"], Float[Array, " steps"]]:
    """Minimise half the sum of squared residuals.

    Damping follows Marquardt (1963): multiplied by 0.3 after a step that lowers the cost, by 4
    after one that does not (and is then not taken).

    Args:
        residuals: pure function of the unknowns and of one entry of `schedule`; every residual in
            units of its own deviation.
        start: initial unknowns, scaled so that a change of one is large.
        schedule: one number per step, for problems that are made harder as they go.

    Returns:
        The unknowns and the cost before each step.
    """
    jacobian = jax.jacfwd(residuals)

    def step(carry, stage):
        x, damping = carry
        r = residuals(x, stage)
        J = jacobian(x, stage)
        normal = J.T @ J
        scale = damping * (jnp.diag(normal) + 1e-3)
        delta = jax.scipy.linalg.solve(normal + jnp.diag(scale), J.T @ r, assume_a="pos")
        candidate = x - delta
        cost, new_cost = 0.5 * jnp.sum(r * r), 0.5 * jnp.sum(residuals(candidate, stage) ** 2)
        better = new_cost < cost  # False for NaN, so a bad step is never taken
        x = jnp.where(better, candidate, x)
        damping = jnp.clip(jnp.where(better, damping * 0.3, damping * 4.0), 1e-6, 1e6)
        return (x, damping), cost

    (x, _), costs = jax.lax.scan(step, (start, jnp.asarray(1e-2, start.dtype)), schedule)
    return x, costs
