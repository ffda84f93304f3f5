"""What a run reports as it goes: metrics, and where the time went.

In the run's folder: `metrics.jsonl`, a line per report; `times.jsonl`, apart from it because the
metrics of a repeated run are the same to the last bit and its times are not; and `tensorboard/`,
both as TensorBoard's event files. Of several processes only the first one writes.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterator

import jax
import tensorboardX

from jaxavatar.files import replacing

Report = dict[str, float]


class Reports:
    """Writes the reports of a run that goes on after `step`; use as a context manager.

    Reports of later steps, which an interrupted run left, are dropped: they will be made again.

    Attributes:
        history: the reports so far.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        self._folder = folder
        self._step = step
        self._events: tensorboardX.SummaryWriter | None = None
        self.history: list[Report] = []
        if jax.process_index() == 0:
            self.history = _keep_until(folder / "metrics.jsonl", step)
            _keep_until(folder / "times.jsonl", step)

    def __enter__(self) -> "Reports":
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()

    def add_metrics(self, report: Report) -> None:
        """Report metrics; "step" says of when."""
        self.history.append(report)
        self._write("metrics", report)

    def add_times(self, report: Report) -> None:
        """Report seconds; "step" says of when."""
        self._write("times", report)

    def _write(self, kind: str, report: Report) -> None:
        if jax.process_index() != 0:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{kind}.jsonl").open("a") as file:
            file.write(json.dumps(report) + "\n")
        if self._events is None:
            # The steps of an interrupted run from this one on are not shown. The suffix tells
            # apart what goes on within a second.
            self._events = tensorboardX.SummaryWriter(
                str(self._folder / "tensorboard"),
                purge_step=self._step + 1,
                filename_suffix=f".{self._step}",
            )
        for name, value in report.items():
            if name != "step":
                self._events.add_scalar(f"{kind}/{name}", value, int(report["step"]))
        self._events.flush()


class Stopwatch:
    """Where the time of training goes, in seconds per step.

    The device works while the host makes the next batch: "data" is the host's time for it, and,
    where batches are made with the device's help, the wait for the step before as well. What
    "data", "save" and "draw" leave of "seconds" is spent in the step itself. The first step of a
    run, which is compiled, is told apart as "first".
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._start()

    def _start(self) -> None:
        self._parts = {"data": 0.0, "save": 0.0, "draw": 0.0}
        self._steps = 0
        self._since = time.monotonic()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's time as that of "data", "save" or "draw"."""
        start = time.monotonic()
        yield
        self._parts[name] += time.monotonic() - start

    def step(self) -> None:
        """Count a step."""
        if self._first is None:
            self._first = time.monotonic() - self._since
            self._start()
        else:
            self._steps += 1

    def lap(self, number: int) -> Report:
        """Return the report, at step `number`, of the steps since the last one."""
        report: Report = {"step": number}
        if self._first:
            report["first"], self._first = self._first, 0.0
        if self._steps:
            report["seconds"] = (time.monotonic() - self._since) / self._steps
            report |= {name: seconds / self._steps for name, seconds in self._parts.items()}
        self._start()
        return {name: round(value, 6) for name, value in report.items()}


def _keep_until(path: pathlib.Path, step: int) -> list[Report]:
    """Read the reports up to `step` and remove the others from the file."""
    if not path.exists():
        return []
    text = path.read_text()
    reports = [report for line in text.splitlines() if (report := _parse(line)) is not None]
    kept = [report for report in reports if report["step"] <= step]
    lines = "".join(json.dumps(report) + "\n" for report in kept)
    if lines != text:
        with replacing(path) as temporary:
            temporary.write_text(lines)
    return kept


def _parse(line: str) -> Report | None:
    """Read a line; None for one that was cut short when the process was killed."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
