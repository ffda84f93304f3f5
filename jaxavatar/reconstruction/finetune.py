"""Fine-tune a regressed avatar on its photo (paper, sec. 3.1).

First the Gaussian decoder D_G learns the person: its parameters are few and shared, so what it
learns from the front shows on the sides as well. Then every Gaussian is polished on its own, as by
the optimisation without a model, but from a better start and so in fewer steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxavatar.reconstruction.optimise import QUICK, Target, optimise, photo_loss
from jaxavatar.reconstruction.regress import Inputs, Regressor, decode
from jaxavatar.reconstruction.transformer import TransformerConfig
from jaxavatar.structs import Avatar

DECODER_STEPS = 5
_RATE = 1e-3
_PARTS = ("decoder", "gaussians")  # D_G; skinning shows little in a single pose


def finetune(
    regressor: Regressor,
    inputs: Inputs,
    target: Target,
    steps: int,
    progress: Callable[[int, int, dict[str, float]], None],
    decoder: bool = True,
) -> Avatar:
    """Adapt a regressed avatar to its photo.

    Args:
        regressor: the transformer.
        inputs: from `regress.read_photo`.
        target: the photo.
        steps: of the polish, rounded up to a multiple of ten.
        progress: called with (steps done, steps, {"psnr": decibels inside the matte}).
        decoder: tune D_G; False keeps its parameters (ablation "w/o finetune. Gaussian decoder").
    """
    make = _decode_tuned if decoder else _decode
    avatar = make(regressor.config, regressor.params, inputs, target)
    return optimise(avatar, target, steps, progress, QUICK)


@functools.partial(jax.jit, static_argnums=(0, 4))
def tune_decoder(
    config: TransformerConfig,
    params: dict[str, Any],
    inputs: Inputs,
    target: Target,
    steps: int = DECODER_STEPS,
) -> dict[str, Any]:
    """Return the parameters with those of D_G adapted to a photo, by Adam.

    Args:
        config: of the model.
        params: of the whole model.
        inputs: of its decoder.
        target: the photo.
        steps: how many.
    """
    every = params["params"]
    tuned = {name: every[name] for name in _PARTS if name in every}
    optimiser = optax.adam(optax.linear_schedule(_RATE, 0.1 * _RATE, steps))

    def loss(tuned: dict[str, Any], background: jax.Array) -> jax.Array:
        avatar = decode(config, {"params": every | tuned}, inputs)
        return photo_loss(avatar, target, background)[0]

    def step(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
        tuned, state = carry
        gradients = jax.grad(loss)(tuned, jnp.full(3, number % 2, jnp.float32))
        updates, state = optimiser.update(gradients, state)
        return (optax.apply_updates(tuned, updates), state), None

    (tuned, _), _ = jax.lax.scan(step, (tuned, optimiser.init(tuned)), jnp.arange(steps))
    return {"params": every | tuned}


@functools.partial(jax.jit, static_argnums=0)
def _decode_tuned(
    config: TransformerConfig, params: dict[str, Any], inputs: Inputs, target: Target
) -> Avatar:
    return decode(config, tune_decoder(config, params, inputs, target), inputs)


@functools.partial(jax.jit, static_argnums=0)
def _decode(config: TransformerConfig, params: dict[str, Any], inputs: Inputs, _: Target) -> Avatar:
    return decode(config, params, inputs)
