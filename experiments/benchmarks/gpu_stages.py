"""Time the stages of backend "pallas", which says where a GPU spends its time.

`python -m experiments.benchmarks.gpu_stages`: median milliseconds of lists, forward kernel and
gradient kernels, for tiles of 8 and of 16 pixels. A stage's arguments are on the device.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from pallas_splat import Config, available, estimate_capacity, workloads
from pallas_splat.binning import Grid
from pallas_splat.pallas import backend, backward, forward, lists
from pallas_splat.project import project

CHANNELS = 4


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", default=["10000x512", "100000x512", "100000x1024"])
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    if not available("pallas"):
        raise SystemExit("backend 'pallas' does not run on this machine")
    print(f"{'scene':28} {'tile':>4} {'entries':>9} {'lists':>8} {'forward':>8} {'gradient':>8}")
    for scene in ("avatar", "clustered"):
        for size in options.sizes:
            n, pixels = (int(part) for part in size.split("x"))
            for tile in (8, 16):
                entries, times = measure(scene, n, pixels, tile, options.repeats)
                row = " ".join(f"{milliseconds:8.3f}" for milliseconds in times)
                print(f"{scene + ' ' + size:28} {tile:4} {entries:9} {row}", flush=True)


def measure(scene: str, n: int, pixels: int, tile: int, repeats: int) -> tuple[int, list[float]]:
    """Count a scene's list entries and time the three stages."""
    gaussians, camera = workloads.cast(workloads.SCENES[scene](n, pixels), jnp.float32)
    config = Config(tile=tile)
    capacity = estimate_capacity(gaussians, camera, config, backend="pallas")
    grid = Grid(camera.width, camera.height, tile)
    projected = jax.jit(project, static_argnums=2)(gaussians, camera, config)
    table = backend.make_table(projected, jnp.ones((n, CHANNELS)))[0]
    make_lists = jax.jit(lambda projected: lists.list_gaussians(projected, grid, capacity))
    draw = jax.jit(lambda table, made: forward.composite_tiles(table, made, grid, CHANNELS))

    @jax.jit
    def differentiate(table, made, image, saved):
        return backward.composite_tiles_vjp(table, made, image, saved, image, grid)

    made = make_lists(projected)
    image, saved = jax.jit(
        lambda table, made: forward.composite_tiles_saving(table, made, grid, CHANNELS)
    )(table, made)
    stages: list[tuple[Callable, Any]] = [
        (make_lists, (projected,)),
        (draw, (table, made)),
        (differentiate, (table, made, image, saved)),
    ]
    return int(made.total), [time_calls(*stage, repeats) for stage in stages]


def time_calls(function: Callable, arguments: Any, repeats: int) -> float:
    """Median milliseconds of a call; the first one compiles."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


if __name__ == "__main__":
    main()
