"""Compile a step ahead of time and say what one chip will hold, compute, move and send."""

import dataclasses
import math
import time
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.plan.cases import Case
from experiments.plan.chips import Chip
from experiments.plan.hlo import Collective, read_collectives
from experiments.plan.work import count_flops
from jaxavatar.training import sharding


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one chip needs for one step.

    Attributes:
        chips: that take part.
        clips: of the whole batch.
        memory: bytes by category. "outputs" are those that do not take the place of arguments.
        flops: the compiler's count, every loop as one pass.
        products: operations of the products in the step before it was compiled, loops counted;
            an equal share of them.
        moved: bytes read and written, by the compiler's count.
        collectives: exchanges with other chips.
        compile_s: seconds that it took.
    """

    chips: int
    clips: int
    memory: dict[str, int]
    flops: float
    products: float
    moved: float
    collectives: list[Collective]
    compile_s: float

    @property
    def total(self) -> int:
        """Bytes of all categories together."""
        return sum(self.memory.values())


@dataclasses.dataclass(frozen=True)
class Seconds:
    """A step by the roofline: the larger of computing and moving, and then what is exchanged."""

    computing: float
    moving: float
    exchanging: float

    @property
    def step(self) -> float:
        """Seconds of a step whose exchanges wait for the rest, which is the worst case."""
        return max(self.computing, self.moving) + self.exchanging


def compile_case(case: Case, mesh: Mesh, backend: str) -> tuple[Plan, Any]:
    """Compile a step for the devices of a mesh.

    Args:
        case: the step; every chip along the axes that split clips gets `case.clips` of them.
        mesh: from `sharding.make_mesh`.
        backend: of the splatter.

    Returns:
        What it needs, and the compiled step.
    """
    clips = case.clips * math.prod(mesh.shape[axis] for axis in sharding.CLIPS)
    state = jax.eval_shape(case.make_state)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((clips, *leaf.shape), leaf.dtype), case.clip
    )
    return plan_step(case.make_step(mesh, backend), mesh, state, batch)


def plan_step(step: Any, mesh: Mesh, state: Any, batch: Any) -> tuple[Plan, Any]:
    """Compile a step of a training state and a batch, both given by their shapes."""
    layout = sharding.by_rules(state, mesh)
    start = time.perf_counter()
    traced = sharding.compile_step(step, mesh, layout).trace(state, batch)
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    analysis: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis() or {}
    memory = {
        "parameters": _held(state.params, layout.params),
        "optimiser": _held(state.opt_state, layout.opt_state),
        "batch": _held(batch, jax.tree.map(lambda _: sharding.by_clip(mesh), batch)),
    }
    # The number of the step and padding, less the arguments that the step does not read.
    memory["other"] = analysis.argument_size_in_bytes - sum(memory.values())
    memory |= {
        "temporaries": analysis.temp_size_in_bytes,
        "outputs": max(0, analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
        "code": analysis.generated_code_size_in_bytes,
    }
    plan = Plan(
        chips=mesh.size,
        clips=jax.tree.leaves(batch)[0].shape[0],
        memory=memory,
        flops=float(cost.get("flops", 0.0)),
        products=count_flops(traced.jaxpr.jaxpr) / mesh.size,
        moved=float(cost.get("bytes accessed", 0.0)),
        collectives=read_collectives(compiled.as_text() or "", mesh.size),
        compile_s=round(seconds, 1),
    )
    return plan, compiled


def _held(tree: Any, shardings: Any) -> int:
    """Return the bytes of one chip's part."""
    parts = jax.tree.map(
        lambda leaf, sharding: (
            math.prod(sharding.shard_shape(leaf.shape)) * jax.numpy.dtype(leaf.dtype).itemsize
        ),
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(parts))


def predict(plan: Plan, chip: Chip) -> Seconds:
    """Return how long a step takes at the chip's best."""
    return Seconds(
        max(plan.flops, plan.products) / chip.flops,
        plan.moved / chip.bandwidth,
        sum(one.sent for one in plan.collectives) / chip.ring,
    )


def scale(few: Seconds, gradient: int, chip: Chip, times: int) -> float:
    """Return the efficiency of weak scaling over clips, by a model.

    Every chip computes what it computes among few, and sums the gradients in one more ring, along
    "data", which waits for all else: t / (t + 2 (n - 1) / n * gradient / ring).

    Args:
        few: the step on as few chips as the mesh's other axes allow.
        gradient: bytes on each chip.
        chip: its ring.
        times: n, as many times those chips.
    """
    return few.step / (few.step + 2 * (times - 1) / times * gradient / chip.ring)
