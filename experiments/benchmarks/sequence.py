"""Memory and time of a training step through time, against frames and resolution.

    python -m experiments.benchmarks.sequence

Each case has a process of its own, so that each has its own peak of memory: T frames of a face at
H x H pixels, rendered, shown to a teacher eight at a time (eq. 8), and differentiated, with and
without rematerialisation. Memory is what the compiler plans for temporaries, and the process's
largest resident set. Cases that the machine has no memory for are compiled but not run. Writes
`experiments/results/sequence_cpu.json` and `.png`.
"""

# pyright: reportMissingImports=false

import argparse
import dataclasses
import json
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.reconstructor import available_bytes, machine
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

ROOT = pathlib.Path(__file__).parents[2]
RESULT = ROOT / "experiments/results/sequence_cpu.json"
FRAMES = (8, 16, 32, 64)
SIDES = (64, 128, 256, 512)
GAUSSIANS = (6000, 400, 1500)
STRETCH = 8  # frames that the teacher sees at once
_RESERVE = 3e9  # bytes besides the planned ones: the program, and the compiler's own
_LIMIT_S = 1200


def measure(frames: int, side: int, rematerialise: bool) -> dict[str, Any]:
    """Compile a step; run it two times if there is memory for it; the second is timed."""
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
    start = time.perf_counter()
    program = compile_step(step).lower(state, batch, known).compile()
    planned: Any = program.memory_analysis()
    row: dict[str, Any] = {
        "compile_s": round(time.perf_counter() - start, 1),
        "planned_gb": round(planned.temp_size_in_bytes / 1e9, 3),
    }
    if planned.temp_size_in_bytes + _RESERVE > (free := available_bytes()):
        needed = f"needs {row['planned_gb']:.0f} GB and the program's, {free / 1e9:.0f} GB are free"
        return row | {"status": "not run", "message": needed}
    seconds, metrics = [], {}
    for _ in range(2):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(program(state, batch, known))
        seconds.append(time.perf_counter() - start)
    finite = all(bool(jnp.isfinite(value)) for value in metrics.values())
    return row | {
        "status": "ok" if finite else "not finite",
        "step_s": float(f"{seconds[-1]:.3g}"),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "loss": float(metrics["loss"]),
        "gradient": float(metrics["gradient"]),
    }


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


def measure_apart(frames: int, side: int, rematerialise: bool) -> dict[str, Any]:
    """Measure in another process; say why when it has no result."""
    row = {"frames": frames, "side": side, "rematerialise": rematerialise}
    command = [sys.executable, "-m", "experiments.benchmarks.sequence", "--one", json.dumps(row)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return row | {"status": "timed out", "message": f"longer than {_LIMIT_S} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return row | {"status": "failed", "message": last}
    return row | json.loads(done.stdout.strip().splitlines()[-1])


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Plot planned memory, resident memory and time against the number of frames."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = {"planned_gb": "planned memory, GB", "peak_gb": "process, GB", "step_s": "step, s"}
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
    parser.add_argument("--one", type=json.loads, metavar="JSON", help="a case, measured here")
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(**arguments.one)))
        return
    result: dict[str, Any] = {"machine": machine(), "gaussians": sum(GAUSSIANS), "rows": []}
    cases = [(t, s, again) for s in SIDES for t in FRAMES for again in (True, False)]
    for case in sorted(cases, key=lambda case: (not case[2], case[0] * case[1] ** 2)):
        row = measure_apart(*case)
        print(json.dumps(row), flush=True)
        result["rows"].append(row)
        # Kept row by row: the large ones take long.
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(result["rows"], arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
