"""Teach the ears of the video transformer by themselves, before its pictures.

In pictures the mouth is small, and a network that hears nothing yet explains most of them. What
the mouth's face units should be, frame by frame, is a far stronger lesson, and needs no picture:
the ears' summary must let a linear map say it. The map is thrown away afterwards.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxavatar.data.clips import Clip
from jaxavatar.data.talking_heads import cut
from jaxavatar.speech import FACE_UNITS
from jaxavatar.teachers.protocol import Params
from jaxavatar.teachers.video_dit import VideoDiTConfig
from jaxavatar.teachers.video_dit.ears import Ears
from jaxavatar.training.state import OptimiserConfig, TrainState, make_optimiser
from jaxavatar.training.step import Metrics

_MOUTH = np.array([name.startswith(("jaw", "mouth", "tongue")) for name in FACE_UNITS])


@dataclasses.dataclass(frozen=True)
class EarsConfig:
    """How the ears are taught.

    Attributes:
        stretches: of clips in a batch.
        frames: of a stretch.
        seed: of the stretches.
        optimiser: its number of steps is that of the lessons.
    """

    stretches: int = 16
    frames: int = 24
    seed: int = 0
    optimiser: OptimiserConfig = dataclasses.field(
        default_factory=lambda: OptimiserConfig(learning_rate=1.5e-3, steps=800, weight_decay=0.05)
    )


@flax.struct.dataclass
class Hearing:
    """A batch of stretches of speech, and how the mouth moves to it.

    Attributes:
        audio: speech features, with the reach of the ears on either side.
        units: face units of jaw, mouth and tongue.
    """

    audio: Float[Array, "B T_context d_a"]
    units: Float[Array, "B T F"]


def hearing(config: EarsConfig, reach: int, step: int, clips: list[Clip]) -> Hearing:
    """Cut the batch of a step: a pure function of seed and step."""
    rng = np.random.default_rng([config.seed, step])
    pieces = []
    for number in rng.integers(len(clips), size=config.stretches):
        clip = clips[number]
        begin = int(rng.integers(0, max(1, len(clip) - config.frames)))
        pieces.append(cut(clip, begin, config.frames, reach))
    return Hearing(
        jnp.asarray(np.stack([audio for audio, _ in pieces])),
        jnp.asarray(np.stack([motion.expression[:, _MOUTH] for _, motion in pieces])),
    )


def ears_loss(
    model: VideoDiTConfig, params: Params, batch: Hearing, spread: Float[Array, " F"]
) -> Float[Array, ""]:
    """Return the mean squared error of the mouth's face units, each in units of its spread.

    Args:
        model: whose ears.
        params: {"ears", "map", "bias"}: the ears, and the linear map from their summary.
        batch: stretches of speech.
        spread: standard deviation of every unit; those that never move are left out.
    """
    count, frames, _ = batch.units.shape
    heard: Any = Ears(model).apply({"params": params["ears"]}, batch.audio, jnp.ones(count), frames)
    summary = heard[1]
    guess = jax.nn.silu(summary) @ params["map"] + params["bias"]
    moving = spread > 1e-3
    error = (guess - batch.units) / jnp.where(moving, spread, 1.0)
    return jnp.sum(jnp.where(moving, error**2, 0.0)) / (count * frames * jnp.sum(moving))


def make_ears_step(
    model: VideoDiTConfig, spread: Float[Array, " F"], optimiser: optax.GradientTransformation
) -> Callable[[TrainState, Hearing], tuple[TrainState, Metrics]]:
    """Build the step `(state, batch) -> (state, metrics)`."""

    def step(state: TrainState, batch: Hearing) -> tuple[TrainState, Metrics]:
        value, gradients = jax.value_and_grad(
            lambda params: ears_loss(model, params, batch, spread)
        )(state.params)
        updates, memory = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, memory, state.step + 1), {"loss": value}

    return step


def teach_ears(
    config: EarsConfig, model: VideoDiTConfig, ears: Params, clips: list[Clip]
) -> tuple[Params, list[float]]:
    """Return ears that hear how the mouth moves, and the loss of every step.

    Args:
        config: of the lessons.
        model: whose ears.
        ears: to start from.
        clips: speech with motion.
    """
    units = np.concatenate([np.asarray(clip.motion.expression) for clip in clips])[:, _MOUTH]
    params = {
        "ears": ears,
        "map": jnp.zeros((model.width, units.shape[1])),
        "bias": jnp.asarray(units.mean(0)),
    }
    optimiser = make_optimiser(config.optimiser)
    state = TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32))
    step = jax.jit(make_ears_step(model, jnp.asarray(units.std(0)), optimiser))
    losses = []
    for number in range(config.optimiser.steps):
        state, metrics = step(state, hearing(config, model.reach, number, clips))
        losses.append(metrics["loss"])
    return state.params["ears"], [float(loss) for loss in losses]
