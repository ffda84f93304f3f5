"""Train the video diffusion transformer by flow matching: one step, a pure function."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxavatar.data.talking_heads import Talk
from jaxavatar.teachers.protocol import Params
from jaxavatar.teachers.schedule import noisy
from jaxavatar.teachers.video_dit import VideoDiTConfig, VideoDiTTeacher, precondition
from jaxavatar.training.state import TrainState
from jaxavatar.training.step import Metrics


@dataclasses.dataclass(frozen=True)
class FlowConfig:
    """What a step minimises.

    Attributes:
        mouth: additional weight of the mouth's region: it is small and decides everything.
        without_audio: share of the clips whose speech is left out, for guidance.
        spread: deviation of the logit of tau.
        shift: of tau towards noise, where motion is decided.
        seed: of the noise.
    """

    mouth: float = 8.0
    without_audio: float = 0.12
    spread: float = 1.2
    shift: float = 2.0
    seed: int = 0


def draw_tau(config: FlowConfig, key: jax.Array, count: int) -> Float[Array, " B"]:
    """Draw noise levels: logit-normal, shifted towards noise."""
    tau = jax.nn.sigmoid(config.spread * jax.random.normal(key, (count,)))
    return config.shift * tau / (1 + (config.shift - 1) * tau)


def flow_loss(
    teacher: VideoDiTTeacher, params: Params, talk: Talk, key: jax.Array, config: FlowConfig
) -> tuple[Float[Array, ""], Metrics]:
    """Return the weighted error of the clean clip, in units of what it can be at that noise.

    With the preconditioning this is flow matching with the weights of EDM: every noise level
    starts from an error of 1. The metrics hold the same error within the mouth's region.
    """
    noise_key, tau_key, drop_key = jax.random.split(key, 3)
    batch = len(talk.frames)
    latents = jax.lax.stop_gradient(teacher.encode(params, talk.frames))
    condition = teacher.condition(params, talk.told)
    kept = jax.random.uniform(drop_key, (batch,)) >= config.without_audio
    condition = dataclasses.replace(condition, heard=kept.astype(jnp.float32))
    tau = draw_tau(config, tau_key, batch)
    noise = jax.random.normal(noise_key, latents.shape)
    mixed = noisy(teacher.spec.schedule, latents, noise, tau)
    guess = teacher.denoise(params, mixed, tau, condition)
    error = jnp.square((guess - latents) / precondition(tau, teacher.config.spread)[1])
    mouth = _pooled(talk.mouth, latents.shape[2:4])[:, None, :, :, None]
    share = jnp.mean(mouth) * error.size
    return jnp.mean((1.0 + config.mouth * mouth) * error), {
        "mouth": jnp.sum(mouth * error) / jnp.maximum(share, 1.0)
    }


def make_flow_step(
    teacher: VideoDiTTeacher,
    config: FlowConfig,
    optimiser: optax.GradientTransformation,
) -> Callable[[TrainState, Talk], tuple[TrainState, Metrics]]:
    """Build the step `(state, clips) -> (state, metrics)`; `sharding.compile_step` jits it.

    Sharded over clips it needs nothing more: all of it is matrix products, which the compiler
    splits by itself.
    """

    def step(state: TrainState, talk: Talk) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)

        def loss(params: Params) -> tuple[Float[Array, ""], Metrics]:
            return flow_loss(teacher, params, talk, key, config)

        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, memory = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {"loss": value, "gradient": optax.tree.norm(gradients)}
        return TrainState(params, memory, state.step + 1), metrics

    return step


def initial_state(
    config: VideoDiTConfig, optimiser: optax.GradientTransformation, key: jax.Array
) -> TrainState:
    """Draw the parameters of a model."""
    params = jax.jit(VideoDiTTeacher(config).init)(key)
    return TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32))


def _pooled(mask: Float[Array, "B H W"], shape: tuple[int, ...]) -> Float[Array, "B h w"]:
    """Average a mask over the pixels of each latent."""
    batch, height, width = mask.shape
    cut = mask.reshape(batch, shape[0], height // shape[0], shape[1], width // shape[1])
    return cut.mean((2, 4))
