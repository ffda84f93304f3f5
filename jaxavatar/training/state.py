"""What training carries from step to step, and the optimiser that moves it."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxavatar.deformer import Driver, initial_state, whole
from jaxavatar.structs import Avatar, Drive


@flax.struct.dataclass
class TrainState:
    """Parameters, the optimiser's memory, and the number of steps taken."""

    params: Any
    opt_state: optax.OptState
    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with a linear warm-up, a cosine decay to zero, and a bound on the gradient's norm."""

    learning_rate: float = 1e-3
    warmup: int = 100
    steps: int = 10_000
    weight_decay: float = 1e-4
    clip: float = 1.0


def make_optimiser(config: OptimiserConfig) -> optax.GradientTransformation:
    """Build the optimiser."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup, config.steps
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )


def create_state(
    driver: Driver,
    optimiser: optax.GradientTransformation,
    key: jax.Array,
    avatar: Avatar,
    drive: Drive,
) -> TrainState:
    """Initialise the parameters at random; avatar and drive only lend their shapes."""
    window = whole(drive, driver.config.halo)
    params = jax.jit(driver.init)(key, avatar, window, initial_state(driver.config))
    return TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32))
