"""Time every kernel that a GPU launches for one picture and for its gradient.

`python -m experiments.benchmarks.gpu_kernels`: for each case the wall-clock time of a call, the
time that the GPU is busy, and each kernel's launches and microseconds.
"""

import argparse
import collections
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from pallas_splat import Config, estimate_capacity, render, workloads

CALLS = 10


def main() -> None:
    """Print a table per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", default=["avatar:40000x512", "clustered:40000x512"])
    parser.add_argument("--tile", type=int, default=Config().tile)
    parser.add_argument("--shown", type=int, default=12, help="kernels per case")
    options = parser.parse_args()
    for case in options.cases:
        for name, call in passes(case, options.tile).items():
            wall, kernels = trace(call)
            busy = sum(microseconds for _, microseconds in kernels.values())
            launches = sum(count for count, _ in kernels.values())
            print(f"{case} tile {options.tile} {name}: {wall:.0f} us a call", end="")
            print(f", GPU busy {busy:.0f} us in {launches:.0f} launches")
            longest = sorted(kernels.items(), key=lambda item: -item[1][1])
            for kernel, (count, microseconds) in longest[: options.shown]:
                print(f"  {microseconds:9.1f} us {count:5.1f} x {kernel[:100]}", flush=True)


def passes(case: str, tile: int) -> dict[str, Callable]:
    """Compile a picture and its gradient; they take no arguments."""
    scene, size = case.split(":")
    n, pixels = (int(part) for part in size.split("x"))
    gaussians, camera = workloads.cast(workloads.SCENES[scene](n, pixels), jnp.float32)
    config = Config(tile=tile)
    config = Config(
        tile=tile, capacity=estimate_capacity(gaussians, camera, config, backend="pallas")
    )

    def picture(gaussians):
        return render(gaussians, camera, backend="pallas", config=config).image

    def loss(gaussians):
        return jnp.mean(jnp.square(picture(gaussians) - 0.5))

    compiled = {
        "picture": jax.jit(picture).lower(gaussians).compile(),
        "gradient": jax.jit(jax.value_and_grad(loss)).lower(gaussians).compile(),
    }
    return {name: lambda run=run: run(gaussians) for name, run in compiled.items()}


def trace(call: Callable) -> tuple[float, dict[str, tuple[float, float]]]:
    """Measure a call.

    Returns:
        The median wall-clock microseconds of a call; and of each kernel its launches and its
        microseconds in one call.
    """
    walls = []
    for _ in range(3 * CALLS):
        start = time.perf_counter()
        jax.block_until_ready(call())
        walls.append(1e6 * (time.perf_counter() - start))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(CALLS):
                jax.block_until_ready(call())
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    found: dict[str, list[float]] = collections.defaultdict(list)
    for plane in profile.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if line.name.startswith("Stream"):
                for event in line.events:
                    found[event.name].append(event.duration_ns / 1e3)
    kernels = {name: (len(times) / CALLS, sum(times) / CALLS) for name, times in found.items()}
    return statistics.median(walls), kernels


if __name__ == "__main__":
    main()
