"""Processes of the splatter's benchmark: which interpreter, how they are ended, what they said."""

import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from typing import Any

from experiments.benchmarks import splat_cases, splat_worker

_ROOT = pathlib.Path(__file__).parents[2]
_PROBE_TIMEOUT_S = 300  # the native backend may have to be compiled


def interpreter(engine: str, peer_python: str | None) -> str:
    """Choose the Python that an engine runs in."""
    return peer_python if peer_python and engine in splat_cases.PEERS else sys.executable


def ask(python: str, engine: str) -> dict[str, Any]:
    """Ask an engine whether it runs here: its environment, or why not."""
    said, status, errors = _run(python, [engine, "--probe"], _PROBE_TIMEOUT_S)
    return said if said else {"why": f"{status}: {errors}"}


def measure(python: str, engine: str, folder: pathlib.Path, device: str, options) -> dict[str, Any]:
    """Time an engine on the inputs in a folder.

    Returns:
        What the worker told about each pass, and `status`: "ok", "out of memory", "timed out" or
        "failed", the last three with a `message`.
    """
    command = [engine, "--folder", str(folder), "--repeats", str(options.repeats)]
    command += ["--max-seconds", str(options.max_seconds)]
    if device == "cpu" and options.memory_gb:
        command += ["--memory-gb", str(options.memory_gb)]
    said, status, errors = _run(python, command, options.timeout)
    if "status" in said or status == "ok":
        return {"status": "ok", **said}
    if splat_worker.out_of_memory(errors):
        status = "out of memory"
    return {**said, "status": status, "message": errors or f"no answer in {options.timeout:.0f} s"}


def _run(python: str, arguments: list[str], timeout: float) -> tuple[dict[str, Any], str, str]:
    """Run a worker: what it told, how it ended, and the last line of its complaints."""
    command = [python, "-m", "experiments.benchmarks.splat_worker", *arguments]
    settings = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # what is taken on a GPU is measured
        "SCIPY_ARRAY_API": "1",  # splax wants it before SciPy, which JAX imports
    }
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with subprocess.Popen(
            command, cwd=_ROOT, env={**os.environ, **settings}, stdout=out, stderr=err
        ) as worker:
            try:
                code = worker.wait(timeout)
                status = "ok" if code == 0 else "failed"
            except subprocess.TimeoutExpired:
                worker.kill()
                code, status = None, "timed out"
        out.seek(0)
        err.seek(0)
        said: dict[str, Any] = {}
        for line in out.read().splitlines():
            if line.startswith("{"):
                said |= json.loads(line)
        complaints = err.read().strip().splitlines()
    if code is None:
        return said, status, ""
    last = complaints[-1][:200] if complaints else ""
    if code < 0:
        last = f"ended by signal {-code}. {last}"
    # The kernel ends a process by SIGKILL when the machine's memory runs out; nobody else does.
    return said, "out of memory" if code == -9 else status, last


def available_gb(share: float) -> float:
    """A share of the memory that is free now, in GB; 0 where that is not known."""
    path = pathlib.Path("/proc/meminfo")
    if not path.exists():
        return 0.0
    line = next(line for line in path.read_text().splitlines() if line.startswith("MemAvailable"))
    return round(share * int(line.split()[1]) * 1024 / 1e9, 1)


def processor() -> str:
    """Name the processor."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
