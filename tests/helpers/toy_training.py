"""A training of a second, to be run in a test or, as a program, to be killed.

python toy_training.py FOLDER STEPS
"""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxavatar.training.loop import LoopConfig, train
from jaxavatar.training.state import TrainState

_TEACHER = np.random.default_rng(7).normal(size=(16, 4)).astype(np.float32)


def batch_of(number):
    """Batches that no two steps share."""
    x = np.random.default_rng(number).normal(size=(8, 16)).astype(np.float32)
    return x, np.sin(x @ _TEACHER)


def run(folder, steps, **options):
    """Train a small network on all devices; reports at every step that 2 or 3 divides."""
    optimiser = optax.adam(3e-3)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere, split = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec("data")),
    )

    def loss(params, x, y):
        return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2)

    def step(state, batch):
        value, gradient = jax.value_and_grad(loss)(state.params, *batch)
        updates, memory = optimiser.update(gradient, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, memory, state.step + 1), {"loss": value}

    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)
        for name, shape in {"a": (16, 64), "b": (64, 4)}.items()
    }
    state = TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32))
    compiled = jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(everywhere, split),
        out_shardings=everywhere,
    )
    config = dataclasses.replace(LoopConfig(steps, report_every=3, save_every=2, keep=2), **options)
    return train(config, compiled, jax.device_put(state, everywhere), batch_of, folder), compiled


if __name__ == "__main__":
    run(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
