"""Time and peak memory of the reconstruction transformer with random weights.

    python -m experiments.benchmarks.reconstructor 500m --precision bfloat16

The head encoder, the transformer and the decoders run as for one photo. The tokens of the body
(and of the hands) are random: their encoders are frozen networks that run before.
"""

import argparse
import dataclasses
import json
import math
import resource
import sys
import time
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxavatar.reconstruction.transformer import CONFIGS, ImageTokens, Reconstructor
from jaxavatar.reconstruction.transformer.dinov2 import HeadEncoder
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes

_APART = ("body_encoder", "hand_encoder")


def random_params(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return parameters under which activations stay of order 1, without the encoders apart."""
    rng = np.random.default_rng(0)
    made = {}
    for path, shape in shapes.items():
        if path.startswith(_APART):
            continue
        spread = 1 / math.sqrt(math.prod(shape[:-1])) if len(shape) > 1 else 0.1
        made[path] = jnp.asarray(spread * rng.standard_normal(shape, np.float32))
    return flax.traverse_util.unflatten_dict(made, sep="/")


def measure(name: str, points: int | None, precision: str) -> dict[str, Any]:
    """Run once to compile and once for the time; return what it took."""
    config = dataclasses.replace(CONFIGS[name], precision=precision)
    points = points or config.points
    params = random_params(parameter_shapes(config))
    rng = np.random.default_rng(1)

    def uniform(*shape: int) -> jax.Array:
        return jnp.asarray(rng.uniform(size=shape), jnp.float32)

    body = uniform(1, config.body.tokens, config.body.width)
    hands = uniform(1, 2, config.hand.tokens, config.hand.width) if config.hand_branch else None
    seen = jnp.ones((1, 2), bool)
    template = uniform(points, 55)
    encoder: nn.Module = HeadEncoder(config.head, dtype=config.dtype)

    def run(params: dict, points: jax.Array, body: jax.Array, image: jax.Array) -> Any:
        head: Any = encoder.apply({"params": params["head_encoder"]}, image)
        tokens = ImageTokens(body, head, hands, seen)
        return Reconstructor(config).apply(
            {"params": params},
            points,
            tokens,
            template_weights=template / template.sum(1, keepdims=True),
            method="reconstruct",
        )

    side = config.head.size
    inputs = (params, uniform(1, points, 3), body, uniform(1, side, side, 3))
    start = time.perf_counter()
    program = jax.jit(run).lower(*inputs).compile()
    compiled = time.perf_counter()
    planned = program.memory_analysis()
    print(f"compiled in {compiled - start:.0f} s, {planned}", file=sys.stderr, flush=True)
    made = jax.block_until_ready(program(*inputs))
    done = time.perf_counter()
    return {
        "config": name,
        "precision": precision,
        "points": points,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "compile_s": round(compiled - start, 1),
        "run_s": round(done - compiled, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "finite": all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(made)),
    }


def main() -> None:
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", choices=CONFIGS)
    parser.add_argument("--points", type=int, help="default: the configuration's")
    parser.add_argument("--precision", choices=("inherit", "bfloat16"), default="inherit")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.config, arguments.points, arguments.precision)))


if __name__ == "__main__":
    main()
