"""Memory and time of a training step through time, against frames and resolution.

    python -m experiments.benchmarks.sequence

T frames of a face at H x H pixels are rendered, shown to a teacher eight at a time (eq. 8), and
differentiated, with every frame deformed and rendered again in the backward pass and with all that
is between kept. A first process compiles the step and says what the compiler plans: temporaries,
arguments, outputs. A second one finds it compiled, takes one step, and says its largest resident
set before and after. Steps that the machine has no memory for are compiled only. Writes
`experiments/results/sequence_cpu.json` and `.png`; what the first holds is not measured again.
"""

# pyright: reportMissingImports=false

import argparse
import dataclasses
import json
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.apart import ROOT, available_bytes, machine, run_apart
from jaxavatar import head_view, losses
from jaxavatar.data.people import random_actor
from jaxavatar.deformer import Driver, load_params
from jaxavatar.losses import LossConfig
from jaxavatar.losses.score import ScoreConfig
from jaxavatar.structs import Drive
from jaxavatar.teachers.analytic import AnalyticTeacher, KnownClips
from jaxavatar.training.learned import Rates, personal_optimiser, untouched
from jaxavatar.training.sequence import (
    Sequence,
    SequenceConfig,
    Watched,
    local_score,
    make_sequence_step,
)
from jaxavatar.training.sharding import compile_step
from jaxavatar.training.state import TrainState
from jaxavatar.training.step import Batch, StepConfig

RESULT = ROOT / "experiments/results/sequence_cpu.json"
FRAMES = (8, 16, 32, 64)
SIDES = (64, 128, 512)
GAUSSIANS = (6000, 400, 1500)
STRETCH = 8  # frames that the teacher sees at once
_RESERVE = 3e9  # bytes besides the planned ones: the program, and what traces it
_SHARE = 0.7  # of the free memory, at most
_LIMIT_S = 1200


def prepare(frames: int, side: int, rematerialise: bool) -> tuple[Callable[..., Any], tuple]:
    """Return a step, and the state, the clip and the teacher that it takes."""
    config = SequenceConfig(
        step=StepConfig(loss=LossConfig(image=0.0, score=1.0), rematerialise=rematerialise),
        rates=Rates(driver=1e-4, colors=1e-3, warmup=1),
    )
    params, driver_config = load_params()
    batch = _batch(frames, side)
    avatar = jax.tree.map(lambda leaf: leaf[0], batch.clip.avatar)
    learned: Any = untouched(params, avatar)
    optimiser = personal_optimiser(config.rates)
    state = TrainState(learned, optimiser.init(learned), jnp.zeros((), jnp.int32))
    known = KnownClips(jnp.full((1, STRETCH, side, side, 3), 0.5), jnp.zeros((1, STRETCH, 768)))
    score = local_score(AnalyticTeacher(), ScoreConfig(guidance=(1.0,)))
    step = make_sequence_step(config, Driver(driver_config), optimiser, score)
    return compile_step(step), (state, batch, known)


def plan(**case: Any) -> dict[str, Any]:
    """Compile a step and say what memory it will take, in GB."""
    step, arguments = prepare(**case)
    start = time.perf_counter()
    lowered = step.lower(*arguments)
    traced = time.perf_counter() - start
    planned: Any = lowered.compile().memory_analysis()
    return {
        "trace_s": round(traced, 1),
        "compile_s": round(time.perf_counter() - start - traced, 1),
        "temporary_gb": _gb(planned.temp_size_in_bytes),
        "argument_gb": _gb(planned.argument_size_in_bytes),
        "output_gb": _gb(planned.output_size_in_bytes),
        "frames_gb": _gb(case["frames"] * case["side"] ** 2 * 3 * 4),
    }


def take(**case: Any) -> dict[str, Any]:
    """Take one step, which was compiled before."""
    step, arguments = prepare(**case)
    program = step.lower(*arguments).compile()
    before = _resident_gb()
    start = time.perf_counter()
    _, metrics = jax.block_until_ready(program(*arguments))
    return {
        "step_s": float(f"{time.perf_counter() - start:.3g}"),
        "before_gb": before,
        "peak_gb": _resident_gb(),
        "loss": float(metrics["loss"]),
        "gradient": float(metrics["gradient"]),
    }


def _gb(count: float) -> float:
    return float(f"{count / 1e9:.4g}")


def _resident_gb() -> float:
    """Return the largest resident set so far."""
    return _gb(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _batch(frames: int, side: int) -> Sequence:
    """Return one clip of a random person and random speech, seen close up."""
    rng = np.random.default_rng(0)
    avatar = random_actor(0, GAUSSIANS)
    camera = head_view.head_camera(avatar, side)
    drive = Drive(
        audio=jnp.asarray(rng.normal(size=(frames, 768)), jnp.float32),
        text=jnp.zeros((1, 8, 384)),
        text_mask=jnp.zeros((1, 8), bool),
        segment=jnp.zeros(frames, jnp.int32),
        time=jnp.arange(frames),
    )
    clip = Batch(
        avatar=avatar,
        drive=drive,
        camera=camera,
        background=jnp.ones(3),
        motion=None,
        keypoint_index=avatar.landmarks,
        keypoints=None,
        keypoint_weights=jnp.ones((frames, len(avatar.landmarks))),
        frames=jnp.arange(1),
        images=None,
        masks=None,
        neighbours=jnp.asarray(losses.neighbour_graph(np.asarray(avatar.means), 6)),
    )
    cameras = dataclasses.replace(
        camera,
        viewmat=jnp.tile(camera.viewmat, (frames, 1, 1)),
        K=jnp.tile(camera.K, (frames, 1, 1)),
    )
    watched = Watched(cameras, jnp.ones(3), jnp.zeros((frames // STRETCH, 1)))
    return jax.tree.map(lambda leaf: leaf[None], Sequence(clip, watched))


def measure(frames: int, side: int, rematerialise: bool) -> dict[str, Any]:
    """Plan a step, and take it if there is memory for it; a process for each."""
    case = {"frames": frames, "side": side, "rematerialise": rematerialise}
    module = "experiments.benchmarks.sequence"
    with tempfile.TemporaryDirectory() as compiled:
        settings = {"JAX_COMPILATION_CACHE_DIR": compiled}
        row = case | run_apart(module, ["--plan", json.dumps(case)], _LIMIT_S, settings)
        if row["status"] != "ok":
            return row
        needed = 1e9 * (row["temporary_gb"] + row["argument_gb"]) + _RESERVE
        if needed > _SHARE * (free := available_bytes()):
            message = f"needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
            return row | {"status": "not run", "message": message}
        return row | run_apart(module, ["--take", json.dumps(case)], _LIMIT_S, settings)


def growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit, for each side and either way, how memory grows with the number of frames.

    Returns:
        `exponent` of planned temporaries against T; `frame_mb`, what each further frame takes of
        them (a line through all T); and `of_pictures`, that in units of the frame's own pixels.
    """
    found = []
    for side in sorted({row["side"] for row in rows}):
        for again in (True, False):
            points = {
                row["frames"]: row["temporary_gb"]
                for row in rows
                if (row["side"], row["rematerialise"]) == (side, again) and "temporary_gb" in row
            }
            if len(points) < 3:
                continue
            counts, planned = (np.array(list(part)) for part in (points.keys(), points.values()))
            each = np.polyfit(counts, planned, 1)[0]
            found.append(
                {
                    "side": side,
                    "rematerialise": again,
                    "exponent": round(np.polyfit(np.log(counts), np.log(planned), 1)[0], 3),
                    "frame_mb": float(f"{1e3 * each:.3g}"),
                    "of_pictures": float(f"{1e9 * each / (12 * side**2):.3g}"),
                }
            )
    return found


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Plot planned memory, resident memory and time against the number of frames."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = {
        "temporary_gb": "planned temporaries, GB",
        "peak_gb": "process, GB",
        "step_s": "step, s",
    }
    figure, axes = plt.subplots(1, len(kinds), figsize=(13, 4.2), squeeze=False)
    for axis, (kind, title) in zip(axes[0], kinds.items(), strict=True):
        for number, side in enumerate(SIDES):
            for again, style in ((True, "-o"), (False, "--x")):
                wanted = [r for r in rows if (r["side"], r["rematerialise"]) == (side, again)]
                points = sorted((r["frames"], r[kind]) for r in wanted if kind in r)
                if points:
                    label = f"{side}² {'rematerialised' if again else 'kept'}"
                    axis.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label)
        axis.set(xscale="log", yscale="log", title=title, xlabel="frames", xticks=FRAMES)
        axis.set_xticklabels([str(count) for count in FRAMES])
        axis.minorticks_off()
        axis.grid(True, alpha=0.3)
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure every case, smallest first; print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--plan", type=json.loads, metavar="JSON", help="a case, compiled here")
    parser.add_argument("--take", type=json.loads, metavar="JSON", help="a case, run here")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="pixels")
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.plan or arguments.take:
        print(json.dumps(plan(**arguments.plan) if arguments.plan else take(**arguments.take)))
        return
    told = {"machine": machine(), "gaussians": sum(GAUSSIANS)}
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    done = {(row["frames"], row["side"], row["rematerialise"]) for row in rows}
    cases = [(t, s, again) for s in arguments.sides for t in FRAMES for again in (True, False)]
    for case in sorted(cases, key=lambda case: (not case[2], case[0] * case[1] ** 2)):
        if case in done:
            continue
        row = measure(*case)
        print(json.dumps(row), flush=True)
        rows.append(row)
        # Kept row by row: the large ones take long.
        rows.sort(key=lambda row: (row["side"], not row["rematerialise"], row["frames"]))
        result = told | {"growth": growth(rows), "rows": rows}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
