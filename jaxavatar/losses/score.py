"""Video score distillation (paper, eq. 8).

The teacher sees our clip with noise added and says what noise it takes it to be; the difference to
the noise that was added, w(tau) (eps_hat - eps), points from what the teacher expects to what we
show. It is a constant for differentiation: gradients pass through the teacher's encoder and our
renderer, never through its network.

Eq. 8 is written for pixels; for a latent teacher z = E(I) takes their place. The paper gives
neither w nor the range of tau.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.teachers.protocol import Condition, Params, VideoTeacher, guided
from jaxavatar.teachers.schedule import noisy, to_noise

FrameGradient = Callable[
    [Float[Array, "B T H W 3"], jax.Array], tuple[Float[Array, "B T H W 3"], Float[Array, ""]]
]
"""Frames and a key to the gradient at the frames and a value to report."""


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """How eq. 8 is evaluated.

    Attributes:
        weight: the residual that w(tau) makes of eps_hat - eps, the factor alpha of
            dz_tau/dz included. "paper": w = 1; "variance": w = sigma^2 (DreamFusion's choice);
            "velocity": v_hat - v; "clean": z - z_hat. For flow teachers these are
            alpha^2, alpha^2 sigma^2, 1 and sigma times v_hat - v.
        lowest: bound of tau.
        highest: bound of tau when training begins.
        highest_end: bound of tau when it ends; between them it falls linearly.
        guidance: one scale per entry of the teacher's `drops`.
        without: a condition whose absence is subtracted: what the condition alone asks for
            (classifier score distillation), with the `guidance` left out; None takes eq. 8.
        normalise: divide the residual by its root mean square over each clip, so that
            lambda_vsd means the same for every teacher.
        clip: bound of the residual's entries, in units of their root mean square.
    """

    weight: Literal["paper", "variance", "velocity", "clean"] = "clean"
    lowest: float = 0.3
    highest: float = 0.9
    highest_end: float = 0.9
    guidance: tuple[float, ...] = (2.0,)
    without: str | None = None
    normalise: bool = False
    clip: float = 10.0


def sample_time(
    config: ScoreConfig, key: jax.Array, count: int, progress: Float[Array, ""] | float
) -> Float[Array, " B"]:
    """Draw tau, one for each whole clip, uniformly between the bounds.

    Args:
        config: the bounds.
        key: for the draw.
        count: B.
        progress: of training, [0, 1].
    """
    highest = config.highest + progress * (config.highest_end - config.highest)
    return jax.random.uniform(key, (count,), minval=config.lowest, maxval=highest)


def residual(
    teacher: VideoTeacher,
    params: Params,
    latents: Float[Array, "B *Z"],
    condition: Condition,
    tau: Float[Array, " B"],
    noise: Float[Array, "B *Z"],
    config: ScoreConfig,
) -> Float[Array, "B *Z"]:
    """Return w(tau) alpha(tau) (eps_hat - eps), the bracket of eq. 8; no gradient passes.

    Args:
        teacher: predicts.
        params: its parameters.
        latents: z of our clip.
        condition: from `teacher.condition`.
        tau: in (0, 1).
        noise: eps.
        config: weight and guidance.
    """
    schedule = teacher.spec.schedule
    given = jax.lax.stop_gradient((params, latents, condition))
    params, latents, condition = given
    mixed = noisy(schedule, latents, noise, tau)

    def implied(output: Float[Array, "B *Z"]) -> Float[Array, "B *Z"]:
        return to_noise(schedule, teacher.spec.prediction, mixed, output, tau)

    if config.without is None:
        output = guided(teacher, params, mixed, tau, condition, config.guidance)
        difference = implied(output) - noise
    else:
        reduced = teacher.drop(params, condition, config.without)
        full = teacher.predict(params, mixed, tau, condition)
        difference = implied(full) - implied(teacher.predict(params, mixed, tau, reduced))
    spread = tau.reshape(tau.shape + (1,) * (latents.ndim - 1))
    factor = _factor(config.weight, schedule.alpha(spread), schedule.sigma(spread))
    return jax.lax.stop_gradient(_tame(factor * difference, config))


def frame_gradient(
    teacher: VideoTeacher,
    params: Params,
    condition: Condition,
    config: ScoreConfig,
    progress: Float[Array, ""] | float = 0.0,
) -> FrameGradient:
    """Bind a teacher that runs here to a clip: the function that `score_distillation` takes.

    The residual is pulled back to the frames at once, by the encoder's transpose, so that the
    encoder's and the renderer's activations are never alive together.

    Args:
        teacher: encodes and predicts.
        params: its parameters.
        condition: of the clip.
        config: how.
        progress: of training, [0, 1].

    Returns:
        The function; its value is half the mean square of the residual. It raises ValueError if
        the frames do not fit the teacher.
    """

    def gradient(
        frames: Float[Array, "B T H W 3"], key: jax.Array
    ) -> tuple[Float[Array, "B T H W 3"], Float[Array, ""]]:
        teacher.spec.check_frames(frames.shape)
        time_key, noise_key = jax.random.split(key)
        latents, pull = jax.vjp(lambda pixels: teacher.encode(params, pixels), frames)
        tau = sample_time(config, time_key, len(frames), progress)
        noise = jax.random.normal(noise_key, latents.shape, latents.dtype)
        push = residual(teacher, params, latents, condition, tau, noise, config)
        (at_frames,) = pull((push / latents.size).astype(latents.dtype))
        return at_frames, 0.5 * jnp.mean(push**2)

    return gradient


def score_distillation(
    gradient: FrameGradient, frames: Float[Array, "B T H W 3"], key: jax.Array
) -> Float[Array, ""]:
    """Return L_vsd: a number whose gradient at the frames is that of eq. 8.

    Args:
        gradient: from `frame_gradient`, or of a teacher in another process.
        frames: of our clip, [0, 1].
        key: for tau and noise.

    Returns:
        Half the mean square of the residual, a mean over the latents' elements and over B, with
        the gradient of eq. 8 for that mean. NaN residuals (a teacher that overflowed) count as
        zero.
    """
    given = jax.lax.stop_gradient(gradient(jax.lax.stop_gradient(frames), key))
    push, value = (jnp.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0) for part in given)
    # The bracket is zero; only its derivative counts.
    return value + jnp.sum((frames - jax.lax.stop_gradient(frames)) * push)


def _factor(
    weight: str, alpha: Float[Array, "B *Z"], sigma: Float[Array, "B *Z"]
) -> Float[Array, "B *Z"]:
    """Return w(tau) alpha(tau)."""
    match weight:
        case "paper":
            return alpha
        case "variance":
            return alpha * sigma**2
        case "velocity":
            return 1.0 / alpha
        case "clean":
            return sigma / alpha
    raise ValueError(
        f"no weight of eq. 8 is called {weight!r}; known: paper, variance, velocity, clean"
    )


def _tame(residual: Float[Array, "B *Z"], config: ScoreConfig) -> Float[Array, "B *Z"]:
    # First of all, or one NaN would spread over its clip, and over the mean of all.
    residual = jnp.nan_to_num(residual, nan=0.0, posinf=0.0, neginf=0.0)
    axes = tuple(range(1, residual.ndim))
    size = jnp.sqrt(jnp.mean(residual**2, axis=axes, keepdims=True)) + 1e-12
    residual = jnp.clip(residual, -config.clip * size, config.clip * size)
    return residual / size if config.normalise else residual
