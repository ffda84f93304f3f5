"""Say a plan: lines for people, JSON, and the curve of scaling as a picture."""

# pyright: reportMissingImports=false

import dataclasses
import pathlib
from typing import Any

from experiments.plan.chips import Chip
from experiments.plan.compiling import Plan, predict


def describe(plan: Plan, chip: Chip) -> dict[str, Any]:
    """Return a plan as plain numbers, per chip."""
    seconds = predict(plan, chip)
    return {
        "chips": plan.chips,
        "clips": plan.clips,
        "memory_bytes": {**plan.memory, "total": plan.total},
        "fits": plan.total <= chip.memory,
        "flops": plan.flops,
        "products_flops": plan.products,
        "bytes_moved": plan.moved,
        "collectives": [
            dataclasses.asdict(one) | {"sent_bytes": round(one.sent)} for one in plan.collectives
        ],
        "predicted_s": {**dataclasses.asdict(seconds), "step": seconds.step},
        "compile_s": plan.compile_s,
    }


def lines(name: str, topology: str, plan: Plan, chip: Chip) -> list[str]:
    """Return a plan in words, per chip."""
    seconds = predict(plan, chip)
    told = [f"{name} on {topology}: {plan.clips} clips on {plan.chips} chips; each chip:"]
    told += [f"  {kind:12} {_bytes(size)}" for kind, size in plan.memory.items()]
    verdict = "fits" if plan.total <= chip.memory else "DOES NOT FIT"
    told += [
        f"  {'total':12} {_bytes(plan.total)} of {_bytes(chip.memory)}: {verdict}",
        f"  {plan.flops / 1e9:.4g} GFLOP as compiled, loops as one pass; {plan.products / 1e9:.4g}"
        " of matrix products with loops counted",
        f"  {_bytes(plan.moved)} read and written",
    ]
    for one in plan.collectives:
        told.append(
            f"  {one.count} x {one.kind} of {_bytes(one.size)} among {one.group}:"
            f" {_bytes(one.sent)} sent"
        )
    if not plan.collectives:
        told.append("  no collectives")
    told.append(
        f"  at least {1e3 * seconds.step:.3g} ms a step: the larger of computing"
        f" {1e3 * seconds.computing:.3g} and moving {1e3 * seconds.moving:.3g}, and exchanging"
        f" {1e3 * seconds.exchanging:.3g} after it"
    )
    return told


def check_lines(rows: dict[str, Any]) -> list[str]:
    """Return what was predicted beside what was measured."""
    units = {"step_s": "s", "products": "FLOP; measured: the compiler's count"}
    told = ["predicted and measured on this machine:"]
    for kind in ("arguments", "temporaries", "step_s", "products"):
        row = rows[kind]
        told.append(
            f"  {kind:12} {row['predicted']:.4g}  {row['measured']:.4g}  {units.get(kind, 'bytes')}"
        )
    return told


def draw(curves: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Plot efficiency against chips: by the model as lines, as compiled as points."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5))
    for number, curve in enumerate(curves):
        name = ", ".join(filter(None, (curve["config"], curve["kind"], curve["mesh"])))
        model = [(row["chips"], row["efficiency"]) for row in curve["model"]]
        axis.plot(*zip(*model, strict=True), color=f"C{number}", label=name)
        points = [(row["chips"], row["efficiency"]) for row in curve["compiled"]]
        axis.plot(*zip(*points, strict=True), "o", color=f"C{number}")
    ticks = [2**k for k in range(9)]
    axis.set(xscale="log", xlabel="chips, the same clips on each", xticks=ticks, ylim=(0, 1.05))
    axis.set_xticklabels([str(count) for count in ticks])
    axis.minorticks_off()
    axis.set_ylabel("predicted efficiency (lines: model, points: compiled)")
    axis.grid(True, alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bytes(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size:.4g} B"
