"""Noise schedules of diffusion models, and what their predictions mean.

A noisy clip is z_tau = alpha(tau) z + sigma(tau) eps (paper, sec. 3.3). Networks predict different
things of it; `to_noise` and `to_clean` bring them to the same terms, so that eq. 8 is written once.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Prediction = Literal["velocity", "noise", "rotated", "clean"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How much signal and noise there is at time tau in [0, 1], 1 being noise alone.

    Attributes:
        kind: "flow" has alpha = 1 - tau, sigma = tau (rectified flow); "cosine" has
            alpha = cos(pi tau / 2), sigma = sin(pi tau / 2), which preserves variance.
    """

    kind: Literal["flow", "cosine"] = "flow"

    def alpha(self, tau: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """Return the share of the signal."""
        return 1.0 - tau if self.kind == "flow" else jnp.cos(0.5 * jnp.pi * tau)

    def sigma(self, tau: Float[Array, "*B"]) -> Float[Array, "*B"]:
        """Return the standard deviation of the noise."""
        return tau if self.kind == "flow" else jnp.sin(0.5 * jnp.pi * tau)


def noisy(
    schedule: Schedule,
    latents: Float[Array, "B *Z"],
    noise: Float[Array, "B *Z"],
    tau: Float[Array, " B"],
) -> Float[Array, "B *Z"]:
    """Return alpha(tau) z + sigma(tau) eps."""
    alpha, sigma = _levels(schedule, tau, latents)
    return alpha * latents + sigma * noise


def to_noise(
    schedule: Schedule,
    prediction: Prediction,
    noisy: Float[Array, "B *Z"],
    output: Float[Array, "B *Z"],
    tau: Float[Array, " B"],
) -> Float[Array, "B *Z"]:
    """Turn a network's output into the noise that it implies.

    Args:
        schedule: of the network.
        prediction: what the output is: "velocity", dz_tau/dtau of rectified flow, eps - z;
            "noise", eps; "rotated", alpha eps - sigma z (v-prediction of variance-preserving
            models); "clean", z.
        noisy: z_tau.
        output: of the network.
        tau: in (0, 1): a clean prediction says nothing of the noise at 0.

    Raises:
        ValueError: the prediction is unknown, or does not go with the schedule.
    """
    alpha, sigma = _levels(schedule, tau, noisy)
    if prediction == "noise":
        return output
    if prediction == "clean":
        return (noisy - alpha * output) / sigma
    return _pair(schedule, prediction, alpha, sigma, noisy, output)[1]


def to_clean(
    schedule: Schedule,
    prediction: Prediction,
    noisy: Float[Array, "B *Z"],
    output: Float[Array, "B *Z"],
    tau: Float[Array, " B"],
) -> Float[Array, "B *Z"]:
    """Turn a network's output into the clean clip that it implies; see `to_noise`."""
    alpha, sigma = _levels(schedule, tau, noisy)
    if prediction == "clean":
        return output
    if prediction == "noise":
        return (noisy - sigma * output) / alpha
    return _pair(schedule, prediction, alpha, sigma, noisy, output)[0]


def shift_time(tau: Float[Array, "*B"], shift: float) -> Float[Array, "*B"]:
    """Warp times towards noise, s tau / (1 + (s - 1) tau), as flow models do for large clips."""
    return shift * tau / (1.0 + (shift - 1.0) * tau)


def _pair(
    schedule: Schedule,
    prediction: Prediction,
    alpha: Float[Array, "B *Z"],
    sigma: Float[Array, "B *Z"],
    noisy: Float[Array, "B *Z"],
    output: Float[Array, "B *Z"],
) -> tuple[Float[Array, "B *Z"], Float[Array, "B *Z"]]:
    """Solve z_tau and the output, both linear in z and eps, for z and eps."""
    if prediction == "velocity" and schedule.kind == "flow":
        return noisy - sigma * output, noisy + alpha * output
    if prediction == "rotated" and schedule.kind == "cosine":
        return alpha * noisy - sigma * output, sigma * noisy + alpha * output
    raise ValueError(f"a {prediction!r} prediction does not go with a {schedule.kind!r} schedule")


def _levels(
    schedule: Schedule, tau: Float[Array, " B"], like: Float[Array, "B *Z"]
) -> tuple[Float[Array, "B *Z"], Float[Array, "B *Z"]]:
    spread = tau.reshape(tau.shape + (1,) * (like.ndim - 1)).astype(like.dtype)
    return schedule.alpha(spread), schedule.sigma(spread)
