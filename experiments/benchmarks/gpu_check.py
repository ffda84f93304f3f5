"""Run every kernel of backend "pallas" once and compare with the reference in float64.

`python -m experiments.benchmarks.gpu_check [--small]`: small enough for compute-sanitizer. Without
a GPU the kernels are interpreted. Ends with status 3 where a result is off or changes from run to
run.
"""

import argparse
import contextlib
import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pallas_splat import Config, available, pallas, render, workloads

TOLERANCES = {"values": 1e-5, "gradients": 1e-4, "tangents": 1e-4}


def main() -> None:
    """Print the largest error of every result, relative to its largest entry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--small", action="store_true", help="one scene, few Gaussians")
    small = parser.parse_args().small
    scenes = ["adversarial"] if small else ["avatar", "clustered", "adversarial"]
    n, pixels = (60, 40) if small else (150, 50)
    worst, same = 0.0, True
    for name in scenes:
        inputs = make_inputs(name, n, pixels)
        host = jax.local_devices(backend="cpu")[0]
        with jax.enable_x64(True), jax.default_device(host):
            expected = jax.device_get(evaluate(workloads.cast(inputs, jnp.float64), "reference"))
        with contextlib.nullcontext() if available("pallas") else pallas.interpreted():
            first, second = (
                jax.device_get(evaluate(workloads.cast(inputs, jnp.float32), "pallas"))
                for _ in range(2)
            )
        for (path, once), again in zip(
            jax.tree.leaves_with_path(first), jax.tree.leaves(second), strict=True
        ):
            if not np.array_equal(once, again):
                same = False
                print(f"{name:12} {jax.tree_util.keystr(path)}: changes from run to run")
        for kind, tolerance in TOLERANCES.items():
            for path, error in errors(first[kind], expected[kind]):
                print(f"{name:12} {kind:10} {path:24} {error:.1e}")
                worst = np.fmax(worst, np.inf if np.isnan(error) else error / tolerance)
    runs = "runs agree bitwise" if same else "runs differ"
    print(f"largest error: {worst:.2f} of its tolerance; {runs}")
    sys.exit(0 if same and worst <= 1 else 3)


def make_inputs(name: str, n: int, pixels: int) -> dict[str, Any]:
    """Arguments of `render` as float64 arrays; features take more than one group of channels."""
    gaussians, camera = workloads.SCENES[name](n, pixels)
    camera = dataclasses.replace(camera, height=pixels * 3 // 4 + 1)
    features = np.random.default_rng(0).normal(size=(n, 20))
    return {"gaussians": gaussians, "camera": camera, "features": features}


def evaluate(inputs: dict[str, Any], backend: str) -> dict[str, Any]:
    """Compute pictures, gradients and tangents along the inputs themselves."""
    config = Config(capacity=64 * len(inputs["features"]))

    def pictures(inputs):
        rendered = render(**inputs, backend=backend, config=config, median_depth=True)
        names = ("image", "alpha", "depth", "features", "median_depth")
        return {name: getattr(rendered, name) for name in names}

    @jax.jit
    def everything(inputs):
        values, pull_back = jax.vjp(pictures, inputs)
        gradients = pull_back(jax.tree.map(lambda value: jnp.cos(value), values))[0]
        direction = jax.tree.map(lambda array: 1e-3 * array, inputs)
        tangents = jax.jvp(pictures, (inputs,), (direction,))[1]
        return {"values": values, "gradients": gradients, "tangents": tangents}

    return everything(inputs)


def errors(actual: Any, expected: Any) -> list[tuple[str, float]]:
    """Largest error of each leaf relative to its largest entry."""
    found = []
    paths = jax.tree.leaves_with_path(expected)
    for (path, want), got in zip(paths, jax.tree.leaves(actual), strict=True):
        error = np.max(np.abs(got - want)) / max(np.max(np.abs(want)), 1e-12)
        found.append((jax.tree_util.keystr(path, simple=True, separator="."), float(error)))
    return found


if __name__ == "__main__":
    main()
