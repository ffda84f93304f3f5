"""What benchmarks share: the machine they run on, and measurements in processes of their own."""

import json
import math
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.jax_engine import jax_environment

ROOT = pathlib.Path(__file__).parents[2]


def run_apart(
    module: str,
    arguments: Sequence[str],
    timeout: float | None = None,
    settings: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Measure in another process, which has a peak of memory of its own.

    Args:
        module: run as a program; its last line is its result, as JSON.
        arguments: of the program.
        timeout: seconds that it may take; None for any time.
        settings: environment variables besides those of this process.

    Returns:
        The result and the status "ok"; otherwise "failed" or "timed out" and a message.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, **(settings or {})}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return {"status": "timed out", "message": f"longer than {timeout} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return {"status": "failed", "message": last}
    return {"status": "ok"} | json.loads(done.stdout.strip().splitlines()[-1])


def available_bytes() -> float:
    """Return how much memory Linux can still give; infinite where it does not say."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), None)
    return math.inf if found is None else 1024.0 * int(found)


def processor() -> str:
    """Name the processor."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Name the processor, its cores, how busy they are, and the versions."""
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **jax_environment(),
    }
