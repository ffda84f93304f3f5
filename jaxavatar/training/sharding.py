"""Spread the clips of a batch over devices: data parallelism.

State is replicated, batches are split on their leading axis, and each device computes the
gradient of its own clips; what crosses devices is one average per step. The split is explicit
(`shard_map`), because the compiler cannot split the splatter's native kernel by itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Arrange devices (all, when None) along the axis "data"."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of the training state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_clip(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def average_over(mesh: Mesh, gradient: Callable[..., Any]) -> Callable[..., Any]:
    """Split `gradient(params, batch, keys)` over the clips and average what the devices return.

    The number of clips must be a multiple of the number of devices; then the average of equal
    shares is the mean over the whole batch.
    """

    def share(params: Any, batch: Any, keys: jax.Array) -> Any:
        return jax.lax.pmean(gradient(params, batch, keys), AXIS)

    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    return jax.shard_map(
        share, mesh=mesh, in_specs=(whole, split, split), out_specs=whole, check_vma=False
    )


def compile_step(
    step: Callable[..., Any], mesh: Mesh | None = None, others: int = 0
) -> Callable[..., Any]:
    """Compile a training step; the state passed in is donated and must not be used again.

    Args:
        step: of state, batch and `others` more arguments, which every device gets whole.
        mesh: devices to spread the clips over; None for one.
        others: see `step`.
    """
    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    state, batch = replicated(mesh), by_clip(mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(state, batch, *[state] * others),
        out_shardings=(state, state),
    )
