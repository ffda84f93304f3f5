"""The training loop: every side effect of training lives here.

Files in the run's folder: `checkpoints/`, `metrics.jsonl`, `times.jsonl` and `tensorboard/` (see
`reports`), `curve.png` (the loss), `preview.png` (whatever the preview callback draws). A run that
was interrupted, at whatever moment, goes on from its last checkpoint with the same data, because
the data is a function of the step; on the same devices its metrics are those of a run that was
not interrupted, to the last bit.
"""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np
import PIL.Image
from jaxtyping import Float
from tqdm import tqdm

from jaxavatar.errors import InputError
from jaxavatar.files import replacing
from jaxavatar.training.checkpoint import Checkpoints
from jaxavatar.training.curve import draw_curve
from jaxavatar.training.reports import Reports, Stopwatch
from jaxavatar.training.state import TrainState
from jaxavatar.training.step import Metrics
from jaxavatar.training.stopping import PreemptedError, Preemption
from jaxavatar.training.tracing import Trace


class DivergedError(RuntimeError):
    """The loss or the state is no longer finite; the last checkpoint is from before."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long to train and how often to report.

    Attributes:
        steps: number of the last step.
        report_every: steps between lines of metrics, each the mean since the last one.
        save_every: steps between checkpoints.
        draw_every: seconds between pictures; several processes, whose clocks differ, draw when
            they save.
        keep: checkpoints to keep.
        best: metric by whose report the best checkpoint is kept besides; None keeps none.
        best_is: which value of it is the best.
        profile: how many steps to trace, from the third of the run on; see `tracing`.
    """

    steps: int
    report_every: int = 20
    save_every: int = 500
    draw_every: float = 180.0
    keep: int = 3
    best: str | None = None
    best_is: Literal["lowest", "highest"] = "lowest"
    profile: int = 0


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
        DivergedError: the loss or the state is not finite; the message says from where to go on.
        PreemptedError: the process was asked to end (SIGTERM); the state is saved.
        InputError: the folder cannot be written, its checkpoint does not fit `state`, or the
            metric that tells the best state does not exist.
    """
    folder = pathlib.Path(folder)
    with (
        Preemption() as preemption,
        Checkpoints(folder / "checkpoints", config.keep, config.best, config.best_is) as saved,
    ):
        pending: list[Metrics] = []
        if saved.latest() is not None:
            state = saved.restore(state)
            pending = saved.notes(int(state.step))
        first = int(state.step)
        drawn, watch = time.monotonic(), Stopwatch()
        with (
            Reports(folder, first) as reports,
            Trace(folder / "tensorboard", first + 3, config.profile) as trace,
            _bar(first, config.steps) as bar,
        ):
            for number in range(first + 1, config.steps + 1):
                with watch.part("data"):
                    batch = batch_of(number - 1)
                state, metrics = trace.run(number, step, state, batch)
                pending.append(metrics)
                watch.step()
                bar.update()
                stop = preemption.reached(number)
                last = number == config.steps
                save = last or number % config.save_every == 0
                report = save or number % config.report_every == 0
                means = {}
                if report:
                    # Fetching waits for the device, so it is done once per report.
                    means, pending = _mean(pending), []
                    _check_metric(config.best, means)
                    bad = sorted(name for name, mean in means.items() if not math.isfinite(mean))
                    _insist(not bad, ", ".join(bad), number, saved)
                    reports.add_metrics({"step": number, **means})
                    bar.set_postfix(loss=f"{means['loss']:.4g}")
                if save or stop:
                    with watch.part("save"):
                        finite = saved.save(state, means, _fetch(pending))
                    _insist(finite, "the state", number, saved)
                if stop:
                    saved.wait()
                    raise PreemptedError(number, folder)
                due = (
                    save
                    if jax.process_count() > 1
                    else time.monotonic() - drawn > config.draw_every
                )
                if last or due:
                    with watch.part("draw"):
                        _draw(folder, reports.history, state, preview)
                    drawn = time.monotonic()
                if report:
                    reports.add_times(watch.lap(number))
    return state


def _bar(first: int, total: int) -> tqdm:
    """Show the progress, of several processes only that of the first one."""
    hidden = jax.process_index() != 0
    return tqdm(initial=first, total=total, unit="step", dynamic_ncols=True, disable=hidden)


def _fetch(pending: list[Metrics]) -> list[dict[str, float]]:
    """Return the metrics of steps as exact Python numbers."""
    return [{k: float(v) for k, v in metrics.items()} for metrics in jax.device_get(pending)]


def _mean(pending: list[Metrics]) -> dict[str, float]:
    """Average the metrics of the last steps."""
    fetched = _fetch(pending)
    return {name: float(np.mean([m[name] for m in fetched])) for name in fetched[0]}


def _check_metric(name: str | None, means: dict[str, float]) -> None:
    if name is not None and name not in means:
        raise InputError(
            f"there is no metric '{name}' to tell the best state by; choose among"
            f" {', '.join(sorted(means))}"
        )


def _insist(finite: bool, what: str, number: int, saved: Checkpoints) -> None:
    """Raise DivergedError, with what to do, unless `what` is finite."""
    if finite:
        return
    saved.wait()
    good = saved.latest()
    raise DivergedError(
        f"{what} became infinite or NaN by step {number}; lower the learning rate and start again"
        + (
            ", as nothing was saved before"
            if good is None
            else f" in the same folder, to go on from the state of step {good}, which is kept"
        )
    )


def _draw(
    folder: pathlib.Path,
    history: list[dict[str, float]],
    state: TrainState,
    preview: Preview | None,
) -> None:
    """Draw the loss and the preview; all processes compute it, the first one writes."""
    pictures = {}
    if len(history) > 1:
        pictures["curve.png"] = draw_curve(
            [line["step"] for line in history], [line["loss"] for line in history]
        )
    if preview is not None:
        pixels = np.clip(np.asarray(preview(state)) * 255 + 0.5, 0, 255).astype(np.uint8)
        pictures["preview.png"] = PIL.Image.fromarray(pixels)
    for name, picture in pictures.items() if jax.process_index() == 0 else ():
        with replacing(folder / name) as temporary:
            picture.save(temporary)
