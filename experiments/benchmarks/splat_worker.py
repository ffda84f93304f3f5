"""Time one engine on one case, in a process of its own: the benchmark's worker.

Needs the engine's framework and NumPy only, so that it runs in any interpreter. Prints one JSON
object a line as soon as it knows something, so that a worker that dies has told what it had.

Memory is the most that was resident during a pass less what was resident just before, after import,
loading and compilation, with the freed heap handed back to the system first (Linux).
"""

import argparse
import ctypes
import functools
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

MIN_REPEATS = 3
_SHORTEST_S = 0.2  # the system counts the cores' work in ticks of 10 ms
_OUT_OF_MEMORY = (
    "allocate memory",
    "out of memory",
    "resource_exhausted",
    "bad_alloc",
    "memoryerror",
)


class Engine(Protocol):
    """A splatter that can be timed."""

    def unavailable(self) -> str | None:
        """Say why it cannot run here, None when it can."""
        ...

    def environment(self) -> dict[str, Any]:
        """Name platform, versions, device and threads."""
        ...

    def load(self, inputs: dict[str, np.ndarray]) -> dict[str, Callable[[], Callable[[], Any]]]:
        """Take `splat_cases.arrays`; for each pass, give what compiles it into a call.

        A call returns when its results are there. That of "forward" returns images [B, H, W, 3];
        that of "forward_backward" has also the gradients of the images' mean squared distance from
        0.5 with respect to means, quats, scales, opacities and colours.
        """
        ...

    def device_peak_mb(self) -> float | None:
        """Most memory taken on an accelerator so far, in MB; None on a CPU."""
        ...


def engine(name: str) -> Engine:
    """Make an engine by its name, a peer's or a backend's."""
    from experiments.benchmarks.jax_engine import Ours
    from experiments.benchmarks.peers.gsplat_cuda import GsplatCuda
    from experiments.benchmarks.peers.gsplat_torch import GsplatTorch
    from experiments.benchmarks.peers.splax_warp import Splax

    peers: dict[str, Callable[[], Engine]] = {
        "gsplat-torch": lambda: GsplatTorch(fast_lists=False),
        "gsplat-torch-tuned": lambda: GsplatTorch(fast_lists=True),
        "gsplat-cuda-packed": lambda: GsplatCuda(packed=True),
        "gsplat-cuda-unpacked": lambda: GsplatCuda(packed=False),
        "splax": Splax,
    }
    return peers[name]() if name in peers else Ours(name)


def main() -> None:
    """Probe an engine, or time it on a case; the parent passes the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("engine")
    parser.add_argument("--probe", action="store_true", help="only say whether it runs here")
    parser.add_argument("--folder", type=pathlib.Path, help="holds inputs.npz")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--memory-gb", type=float)
    parser.add_argument(
        "--wait", action="store_true", help="compile and warm up, then wait for stdin to close"
    )
    options = parser.parse_args()
    runner = engine(options.engine)
    if options.probe:
        why = runner.unavailable()
        tell({"why": why} if why else {"environment": runner.environment()})
        return
    if options.memory_gb:
        size = int(options.memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    attempt(runner, options)


def attempt(runner: Engine, options: argparse.Namespace) -> None:
    """Measure, and tell why where that fails."""
    try:
        measure(runner, options)
    except Exception as error:  # whatever a peer raises becomes its row; others go on
        message = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        status = "out of memory" if out_of_memory(message) else "failed"
        tell({"status": status, "message": message})


def measure(runner: Engine, options: argparse.Namespace) -> None:
    """Time both passes and write the image of the first to `image-ENGINE.npy`."""
    runner.environment()
    with np.load(options.folder / "inputs.npz") as inputs:
        passes = runner.load(dict(inputs))
    compiled = {
        name: functools.cache(functools.partial(timed, prepare)) for name, prepare in passes.items()
    }
    if options.wait:
        for compile_once in compiled.values():
            compile_once()[0]()
        tell({"ready": True})
        sys.stdin.read()
    for name, compile_once in compiled.items():
        call, compile_s = compile_once()
        before = resident_mb(reset=True)
        times, result = repeat(call, options.repeats, options.max_seconds)
        peak = resident_mb(peak=True) - before
        device_peak = runner.device_peak_mb()
        tell(
            {
                name: {
                    "compile_s": round(compile_s, 3),
                    **times,
                    "peak_mb": round(peak if device_peak is None else device_peak, 1),
                }
            }
        )
        if name == "forward":
            image = result.numpy(force=True) if hasattr(result, "numpy") else np.asarray(result)
            np.save(options.folder / f"image-{options.engine}.npy", image)
        del result


def timed(prepare: Callable[[], Callable[[], Any]]) -> tuple[Callable[[], Any], float]:
    """Prepare a pass; also give the seconds that it took."""
    start = time.perf_counter()
    call = prepare()
    return call, time.perf_counter() - start


def repeat(call: Callable[[], Any], repeats: int, max_seconds: float) -> tuple[dict, Any]:
    """Time a call, at least `MIN_REPEATS` times, then until it is enough or takes too long.

    The first call warms up and does not count, unless it alone takes `max_seconds`.

    Returns:
        Statistics of the wall-clock time, milliseconds, with how many of the cores it may use
        others kept busy meanwhile (the times are worth little where that is more than a few
        tenths), None where the calls are over too soon to tell; and the last result.
    """
    samples, result, warm = [], None, False
    busy, own, began = cores_busy_s(), time.process_time(), time.perf_counter()
    while not _enough(len(samples), time.perf_counter() - began, repeats, max_seconds):
        result = None  # two results at once would count as memory that is needed
        start, start_cpu = time.perf_counter(), time.process_time()
        result = call()
        samples.append((time.perf_counter() - start, time.process_time() - start_cpu))
        if len(samples) == 1 and not warm and samples[0][0] < max_seconds:
            samples, warm = [], True
            busy, own, began = cores_busy_s(), time.process_time(), time.perf_counter()
    elapsed = time.perf_counter() - began
    others = cores_busy_s() - busy - (time.process_time() - own)
    wall, cpu = 1e3 * np.array(samples).T
    p10, median, p90 = np.percentile(wall, [10, 50, 90])
    statistics = {"median_ms": median, "p10_ms": p10, "p90_ms": p90, "cpu_ms": np.median(cpu)}
    rounded = {name: round(float(value), 3) for name, value in statistics.items()}
    told = round(max(others / elapsed, 0.0), 2) if elapsed >= _SHORTEST_S else None
    return {**rounded, "others_cores": told, "repeats": len(wall)}, result


def _enough(done: int, spent: float, repeats: int, max_seconds: float) -> bool:
    return done >= repeats or (done >= MIN_REPEATS and spent > max_seconds)


def cores_busy_s() -> float:
    """Seconds that the cores allowed here have worked so far, for anyone; 0 if not known."""
    path = pathlib.Path("/proc/stat")
    if not path.exists():
        return 0.0
    allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in path.read_text().splitlines():
        name, *counts = line.split()
        if name in allowed:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, counts[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(*, peak: bool = False, reset: bool = False) -> float:
    """Read the memory that is resident, or was at most since the last reset, in MB.

    Where the system cannot reset it, it is the most since the process began.
    """
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    if reset:
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    wanted = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in status.read_text().splitlines() if line.startswith(wanted))
    return int(line.split()[1]) * 1024 / 1e6


def out_of_memory(message: str) -> bool:
    """Whether a message says that memory ran out."""
    return any(words in message.lower() for words in _OUT_OF_MEMORY)


def tell(what: dict[str, Any]) -> None:
    """Print something the parent should know."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main())
