"""Processes of the splatter's benchmark: which interpreter, how they are ended, what they said."""

import contextlib
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.benchmarks import splat_cases, splat_worker
from experiments.benchmarks.apart import available_bytes

_ROOT = pathlib.Path(__file__).parents[2]
_PROBE_TIMEOUT_S = 300  # the native backend may have to be compiled


class Job(NamedTuple):
    """One engine on the inputs in a folder.

    Attributes:
        python: interpreter.
        engine: name.
        folder: holds `inputs.npz`.
        device: platform that the engine runs on.
    """

    python: str
    engine: str
    folder: pathlib.Path
    device: str


def interpreter(engine: str, peer_python: str | None) -> str:
    """Choose the Python that an engine runs in."""
    return peer_python if peer_python and engine in splat_cases.PEERS else sys.executable


def ask(python: str, engine: str) -> dict[str, Any]:
    """Ask an engine whether it runs here: its environment, or why not."""
    with Worker(python, [engine, "--probe"]) as worker:
        said, status, errors = worker.finish(_PROBE_TIMEOUT_S)
    return said if said else {"why": f"{status}: {errors}"}


def measure(job: Job, options) -> dict[str, Any]:
    """Time an engine on the inputs in a folder.

    Returns:
        What the worker told about each pass, and `status`: "ok", "out of memory", "timed out" or
        "failed", the last three with a `message`.
    """
    with Worker(job.python, _arguments(job, options)) as worker:
        return _row(worker, options.timeout)


def measure_together(jobs: list[Job], options) -> Iterator[dict[str, Any]]:
    """Let engines compile side by side, then time them one after the other; see `measure`.

    While one is timed, the others wait. Each has the timeout for either part.
    """
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(job.python, [*_arguments(job, options), "--wait"]))
            for job in jobs
        ]
        deadline = time.monotonic() + options.timeout
        while time.monotonic() < deadline and not all(worker.ready() for worker in workers):
            time.sleep(0.05)
        late = [not worker.ready() for worker in workers]
        for worker, is_late in zip(workers, late, strict=True):
            if is_late:
                worker.kill()
        for worker, is_late in zip(workers, late, strict=True):
            if is_late:
                message = f"not ready after {options.timeout:.0f} s"
                yield {"status": "timed out", "message": message}
                continue
            worker.go()
            yield _row(worker, options.timeout)


class Worker:
    """A process of `splat_worker`; what it says goes to files, so that it never blocks."""

    def __init__(self, python: str, arguments: list[str]):
        settings = {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # what is taken on a GPU is measured
            "SCIPY_ARRAY_API": "1",  # splax wants it before SciPy, which JAX imports
        }
        self._out, self._err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-m", "experiments.benchmarks.splat_worker", *arguments],
            cwd=_ROOT,
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._err,
        )

    def __enter__(self) -> "Worker":
        """Return the worker itself."""
        return self

    def __exit__(self, *_) -> None:
        """End the process, if it runs yet."""
        self.kill()
        self._out.close()
        self._err.close()

    def ready(self) -> bool:
        """Whether it waits for its turn, or has ended."""
        return self._process.poll() is not None or "ready" in self._said()

    def go(self) -> None:
        """Give it its turn."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self._process.stdin.close()

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def finish(self, timeout: float) -> tuple[dict[str, Any], str, str]:
        """Wait for its end: what it told, how it ended, and the last line of its complaints."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._said(), "timed out", ""
        self._err.seek(0)
        complaints = self._err.read().strip().splitlines()
        last = complaints[-1][:200] if complaints else ""
        if code < 0:
            last = f"ended by signal {-code}. {last}"
        # The kernel ends a process by SIGKILL when memory runs out; nobody else does.
        status = "out of memory" if code == -9 else "failed" if code else "ok"
        return self._said(), status, last

    def _said(self) -> dict[str, Any]:
        descriptor = self._out.fileno()  # its position is shared with the process
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()
        said: dict[str, Any] = {}
        for line in text.splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                said |= json.loads(line)
        return said


def _arguments(job: Job, options) -> list[str]:
    arguments = [job.engine, "--folder", str(job.folder), "--repeats", str(options.repeats)]
    arguments += ["--max-seconds", str(options.max_seconds)]
    if job.device == "cpu" and options.memory_gb:
        arguments += ["--memory-gb", str(options.memory_gb)]
    return arguments


def _row(worker: Worker, timeout: float) -> dict[str, Any]:
    said, status, errors = worker.finish(timeout)
    said.pop("ready", None)
    if "status" in said or status == "ok":
        return {"status": "ok", **said}
    if splat_worker.out_of_memory(errors):
        status = "out of memory"
    return {**said, "status": status, "message": errors or f"no answer in {timeout:.0f} s"}


def available_gb(share: float) -> float:
    """A share of the memory that is free now, in GB; 0 where that is not known."""
    free = available_bytes()
    return round(share * free / 1e9, 1) if math.isfinite(free) else 0.0
