"""Take a planned step on this machine's processor and compare it with its plan."""

import resource
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.plan.cases import Case
from experiments.plan.chips import Chip
from experiments.plan.compiling import Plan, predict
from jaxavatar.training import sharding

_STEPS = 4


def take(case: Case, plan: Plan, compiled: Any, mesh: Mesh, chip: Chip) -> dict[str, Any]:
    """Run a few steps; return what was predicted and what was measured.

    Memory is the growth of the process's largest resident set over what it is when state and
    batch lie on the devices; so it is above zero only where no earlier peak hides it.
    """
    state = case.make_state()
    state = sharding.place(state, sharding.by_rules(state, mesh))
    batch = jax.tree.map(
        lambda leaf: np.broadcast_to(np.asarray(leaf), (plan.clips, *leaf.shape)), case.clip
    )
    batch = sharding.place(batch, sharding.by_clip(mesh))
    jax.block_until_ready((state, batch))
    before, taken = _peak(), []
    for _ in range(_STEPS):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(compiled(state, batch))
        taken.append(time.perf_counter() - start)
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves((state, batch))
        for shard in leaf.addressable_shards
        if shard.device == mesh.devices.flat[0]
    )
    planned = sum(plan.memory[k] for k in ("parameters", "optimiser", "batch", "other"))
    return {
        "arguments": {"predicted": planned, "measured": held},
        "temporaries": {
            "predicted": plan.memory["temporaries"] * plan.chips,
            "measured": _peak() - before,
        },
        "step_s": {"predicted": predict(plan, chip).step, "measured": min(taken)},
        "products": {"predicted": plan.products, "measured": plan.flops},
        "loss": float(metrics["loss"]),
    }


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
