"""The training loop: every side effect of training lives here.

Files in the run's folder: `checkpoints/`, `metrics.jsonl` (a line per report), `curve.png` (the
loss), `preview.png` (whatever the preview callback draws). A run that was interrupted goes on
from its last checkpoint with the same data, because the data is a function of the step.
"""

import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import PIL.Image
from jaxtyping import Float
from tqdm import tqdm

from jaxavatar.files import replacing
from jaxavatar.training.checkpoint import Checkpoints
from jaxavatar.training.curve import draw_curve
from jaxavatar.training.state import TrainState
from jaxavatar.training.step import Metrics


class DivergedError(RuntimeError):
    """The loss is no longer finite; the last checkpoint is from before."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long to train and how often to report.

    Attributes:
        steps: number of the last step.
        report_every: steps between lines of metrics, each the mean since the last one.
        save_every: steps between checkpoints.
        draw_every: seconds between pictures.
        keep: checkpoints to keep.
    """

    steps: int
    report_every: int = 20
    save_every: int = 500
    draw_every: float = 180.0
    keep: int = 3


Preview = Callable[[TrainState], Float[np.ndarray, "H W 3"]]


def train(
    config: LoopConfig,
    step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    state: TrainState,
    batch_of: Callable[[int], Any],
    folder: str | os.PathLike[str],
    preview: Preview | None = None,
) -> TrainState:
    """Train until `config.steps`, going on from the newest checkpoint in the folder.

    Args:
        config: length and intervals.
        step: compiled step; it may consume (donate) the state it is given.
        state: where to start when the folder holds no checkpoint.
        batch_of: the batch of a step, a pure function of the step.
        folder: of the run, created if need be.
        preview: draws a contact sheet in [0, 1].

    Returns:
        The last state.

    Raises:
        DivergedError: the loss is not finite.
        InputError: the folder cannot be written, or its checkpoint does not fit `state`.
    """
    folder = pathlib.Path(folder)
    with Checkpoints(folder / "checkpoints", config.keep) as checkpoints:
        if checkpoints.latest() is not None:
            state = checkpoints.restore(state)
        first = int(state.step)
        history = _read_history(folder / "metrics.jsonl", first)
        pending: list[Metrics] = []
        drawn = time.monotonic()
        with tqdm(initial=first, total=config.steps, unit="step", dynamic_ncols=True) as bar:
            for number in range(first + 1, config.steps + 1):
                state, metrics = step(state, batch_of(number - 1))
                pending.append(metrics)
                last = number == config.steps
                bar.update()
                if last or number % config.report_every == 0 or number % config.save_every == 0:
                    # Fetching waits for the device, so it is done once per report.
                    report = _mean(pending, number)
                    pending = []
                    history.append(report)
                    _append(folder / "metrics.jsonl", report)
                    bar.set_postfix(loss=f"{report['loss']:.4g}")
                if last or number % config.save_every == 0:
                    checkpoints.save(state)
                if last or time.monotonic() - drawn > config.draw_every:
                    _draw(folder, history, state, preview)
                    drawn = time.monotonic()
    return state


def _mean(pending: list[Metrics], number: int) -> dict[str, float]:
    """Average the metrics of the last steps and insist that they are finite."""
    fetched = jax.device_get(pending)
    report = {name: float(np.mean([m[name] for m in fetched])) for name in fetched[0]}
    bad = sorted(name for name, value in report.items() if not math.isfinite(value))
    if bad:
        raise DivergedError(
            f"{', '.join(bad)} became infinite or NaN within the {len(fetched)} steps before step"
            f" {number}; lower the learning rate and resume from the last checkpoint"
        )
    return {"step": number, **report}


def _read_history(path: pathlib.Path, step: int) -> list[dict[str, float]]:
    """Read the reports up to `step` and drop later ones, which will be made again."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [line for line in lines if line["step"] <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
    return kept


def _append(path: pathlib.Path, report: dict[str, float]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(report) + "\n")


def _draw(
    folder: pathlib.Path,
    history: list[dict[str, float]],
    state: TrainState,
    preview: Preview | None,
) -> None:
    pictures = {}
    if len(history) > 1:
        pictures["curve.png"] = draw_curve(
            [line["step"] for line in history], [line["loss"] for line in history]
        )
    if preview is not None:
        pixels = np.clip(np.asarray(preview(state)) * 255 + 0.5, 0, 255).astype(np.uint8)
        pictures["preview.png"] = PIL.Image.fromarray(pixels)
    for name, picture in pictures.items():
        with replacing(folder / name) as temporary:
            picture.save(temporary)
