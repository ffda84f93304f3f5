"""Time the splatter: `python -m experiments.benchmarks.splat`.

For every backend and size: how long compilation takes, then the median over repetitions of a
render, and of a render with the gradients of a loss on the image with respect to means, quats,
scales, opacities and colours. The scene is `workloads.avatar`. Results go to
`experiments/results/splat_<device>.json` with the device and the versions.

Both wall-clock and process CPU time are recorded. On a machine that does other work the CPU time
of a single-threaded backend is the steadier one; of a multi-threaded one it is the sum over
threads.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from pallas_splat import Camera, Config, Gaussians, available, estimate_capacity, render, workloads

RESULTS = pathlib.Path(__file__).parents[1] / "results"
SIZES = ("10000x256", "10000x512", "40000x512", "100000x1024")


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backends", nargs="+", default=["xla", "native"])
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="GAUSSIANSxPIXELS")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=pathlib.Path, default=None)
    options = parser.parse_args(arguments)

    rows = []
    for size in options.sizes:
        n, pixels = (int(part) for part in size.split("x"))
        for backend in options.backends:
            if not available(backend):
                print(f"{backend:>10}: does not run on this machine")
                continue
            rows.append(measure(backend, n, pixels, options.repeats))
            print(describe(rows[-1]), flush=True)

    out = options.out or RESULTS / f"splat_{jax.default_backend()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    print(f"written to {out}")


def measure(backend: str, n: int, pixels: int, repeats: int) -> dict[str, Any]:
    """Time one backend on one size of scene; milliseconds, compilation in seconds."""
    gaussians, camera = workloads.cast(workloads.avatar(n, pixels), jnp.float32)
    config = Config(capacity=estimate_capacity(gaussians, camera))
    target = jnp.full((pixels, pixels, 3), 0.5)

    def forward(gaussians: Gaussians, camera: Camera):
        return render(gaussians, camera, backend=backend, config=config).image

    def backward(gaussians: Gaussians, camera: Camera):
        def loss(gaussians):
            return jnp.mean(jnp.square(forward(gaussians, camera) - target))

        return jax.value_and_grad(loss)(gaussians)

    return {
        "backend": backend,
        "gaussians": n,
        "pixels": pixels,
        "repeats": repeats,
        "forward": time_compiled(forward, (gaussians, camera), repeats),
        "forward_backward": time_compiled(backward, (gaussians, camera), repeats),
    }


def time_compiled(function: Callable, arguments: tuple, repeats: int) -> dict[str, float]:
    """Compile, warm up, and take medians over `repeats` calls."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_s = time.perf_counter() - start
    jax.block_until_ready(compiled(*arguments))
    wall, cpu = [], []
    for _ in range(repeats):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(*arguments))
        wall.append(1e3 * (time.perf_counter() - wall_start))
        cpu.append(1e3 * (time.process_time() - cpu_start))
    return {
        "compile_s": round(compile_s, 2),
        "wall_ms": round(statistics.median(wall), 3),
        "wall_min_ms": round(min(wall), 3),
        "cpu_ms": round(statistics.median(cpu), 3),
    }


def describe(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    times = " ".join(
        f"{name} {row[name]['wall_ms']:.1f} ms (cpu {row[name]['cpu_ms']:.1f}, "
        f"compile {row[name]['compile_s']:.1f} s)"
        for name in ("forward", "forward_backward")
    )
    return f"{row['backend']:>10} {row['gaussians']:>7} @ {row['pixels']}: {times}"


def machine() -> dict[str, Any]:
    """Name what the numbers were measured on."""
    return {
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "cores_allowed": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
    }


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
