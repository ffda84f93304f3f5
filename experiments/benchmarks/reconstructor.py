"""Time and peak memory of the reconstruction transformer with random weights.

    python -m experiments.benchmarks.reconstructor 500m --precision bfloat16
    python -m experiments.benchmarks.reconstructor all

The head encoder, the transformer and the decoders run as for one photo. The tokens of the body
(and of the hands) are random: their encoders are frozen networks that run before. `all` measures
each configuration in a process of its own, so that each has its own peak of memory, skips what
the machine has no memory for, and writes `experiments/results/reconstructor_cpu.json`.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.apart import ROOT, available_bytes, machine, run_apart
from jaxavatar.reconstruction.transformer import (
    CONFIGS,
    ImageTokens,
    Reconstructor,
    TransformerConfig,
)
from jaxavatar.reconstruction.transformer.dinov2 import HeadEncoder
from jaxavatar.reconstruction.transformer.placed import PhotoPoints
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes

RESULT = ROOT / "experiments/results/reconstructor_cpu.json"
PLACED = 44_000  # Gaussians of a model that changes those placed on a photo, as avatars have
_APART = ("body_encoder", "hand_encoder")
_REPEAT_S = 60.0  # more runs only while they take less together
# Peak bytes, fitted to mini, 500m and hand++ on two cores: weights, activations, the program.
_PER_PARAMETER, _PER_POINT, _FIXED = 4.0, 1.4e5, 6e8


def random_params(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return parameters under which activations stay of order 1, without the encoders apart."""
    rng = np.random.default_rng(0)
    made = {}
    for path, shape in shapes.items():
        if path.startswith(_APART):
            continue
        spread = 1 / math.sqrt(math.prod(shape[:-1])) if len(shape) > 1 else 0.1
        made[path] = jnp.asarray(spread * rng.standard_normal(shape, np.float32))
    return flax.traverse_util.unflatten_dict(made, sep="/")


def measure(config: TransformerConfig, points: int, placed: int, repeats: int) -> dict[str, Any]:
    """Run once to compile, then for the time.

    Args:
        config: the model.
        points: query points.
        placed: Gaussians, where the model changes placed ones.
        repeats: at most so many runs, one in any case; more only while they take a minute.

    Returns:
        What it took; the time is the median of the runs, the first left out if there are more.
    """
    params = random_params(parameter_shapes(config))
    inputs = _inputs(config, points, placed)
    start = time.perf_counter()
    program = jax.jit(_program(config)).lower(params, *inputs).compile()
    compiled = time.perf_counter() - start
    print(f"compiled in {compiled:.0f} s, {program.memory_analysis()}", file=sys.stderr, flush=True)
    seconds: list[float] = []
    made: Any = None
    while not seconds or (len(seconds) < repeats and sum(seconds) < _REPEAT_S):
        start = time.perf_counter()
        made = jax.block_until_ready(program(params, *inputs))
        seconds.append(time.perf_counter() - start)
    return {
        "points": points,
        "gaussians": placed if config.placed else points,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "compile_s": round(compiled, 2),
        "run_s": _three_digits(statistics.median(seconds[1:] or seconds)),
        "runs": len(seconds),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "finite": all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(made)),
    }


def _three_digits(seconds: float) -> float:
    """Round to significant digits: a small model's microseconds are no zero."""
    return float(f"{seconds:.3g}")


def _inputs(config: TransformerConfig, points: int, placed: int) -> tuple:
    """Return query points, body tokens, head crop, hand tokens, skinning weights, placed points."""
    rng = np.random.default_rng(1)

    def uniform(*shape: int) -> jax.Array:
        return jnp.asarray(rng.uniform(size=shape), jnp.float32)

    side = config.head.size
    body = uniform(1, config.body.tokens, config.body.width)
    hands = uniform(1, 2, config.hand.tokens, config.hand.width) if config.hand_branch else None
    template = uniform(placed if config.placed else points, 55)
    photo = None
    if config.placed:
        photo = PhotoPoints(
            points=uniform(1, placed, 3),
            colors=uniform(1, placed, 3),
            seen=jnp.asarray(rng.uniform(size=(1, placed)) < 0.5),
            shifts=0.02 * uniform(1, placed, 3),
            rays=uniform(1, placed, 3),
            reach=0.02 * uniform(1, placed),
            nearest=jnp.asarray(rng.integers(points, size=(1, placed, 3))),
            shares=jnp.full((1, placed, 3), 1 / 3),
        )
    weights = template / template.sum(1, keepdims=True)
    return uniform(1, points, 3), body, uniform(1, side, side, 3), hands, weights, photo


def _program(config: TransformerConfig) -> Callable[..., Any]:
    """Return the function of parameters and inputs that makes a photo's Gaussians."""
    encoder: nn.Module = HeadEncoder(config.head, dtype=config.dtype)
    model: nn.Module = Reconstructor(config)

    def run(params, points, body, image, hands, weights, photo) -> Any:
        variables = {"params": params}
        head: Any = encoder.apply({"params": params["head_encoder"]}, image)
        tokens = ImageTokens(body, head, hands, jnp.ones((1, 2), bool))
        if photo is None:
            return model.apply(
                variables, points, tokens, template_weights=weights, method="reconstruct"
            )
        features = model.apply(variables, points, tokens, photo, method="features")
        return model.apply(variables, features, photo, weights[None], method="change")

    return run


def needed_bytes(config: TransformerConfig) -> float:
    """Estimate the peak memory of `measure` with the configuration's points."""
    shapes = parameter_shapes(config)
    count = sum(math.prod(s) for path, s in shapes.items() if not path.startswith(_APART))
    return _PER_PARAMETER * count + _PER_POINT * config.points + _FIXED


def measure_apart(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure in another process; say why when it has no result."""
    config, free = CONFIGS[name], available_bytes()
    row: dict[str, Any] = {"config": name, "precision": arguments.precision}
    if (needed := needed_bytes(config)) > free:
        message = f"needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
        return row | {"status": "skipped", "message": message}
    options = ["--precision", arguments.precision, "--repeats", str(arguments.repeats)]
    return row | run_apart("experiments.benchmarks.reconstructor", [name, *options])


def main() -> None:
    """Print a line of JSON, for every configuration one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", choices=[*CONFIGS, "all"])
    parser.add_argument("--points", type=int, help="default: the configuration's")
    parser.add_argument("--precision", choices=("inherit", "bfloat16"), default="inherit")
    parser.add_argument("--repeats", type=int, default=5, help="runs that take a minute together")
    parser.add_argument("--out", type=pathlib.Path, default=RESULT, help="JSON of `all`")
    arguments = parser.parse_args()
    if arguments.config != "all":
        config = dataclasses.replace(CONFIGS[arguments.config], precision=arguments.precision)
        row = {"config": arguments.config, "precision": arguments.precision}
        points = arguments.points or config.points
        print(json.dumps(row | measure(config, points, PLACED, arguments.repeats)))
        return
    result: dict[str, Any] = {"machine": machine(), "rows": []}
    for name in sorted(CONFIGS, key=lambda name: needed_bytes(CONFIGS[name])):
        row = measure_apart(name, arguments)
        print(json.dumps(row), flush=True)
        result["rows"].append(row)
        # Kept row by row: the large ones take long.
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
