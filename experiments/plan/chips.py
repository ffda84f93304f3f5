"""Chips to plan for: what they can do, and their devices without having them.

A topology is written `v5e:4x4`, `v5p:4x4x4`, `v6e:8x8` (TPUs, by the extra `tpu`) or `cpu:8`
(simulated devices that share this machine).
"""

import dataclasses
import importlib.util
import math
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from experiments.benchmarks.apart import available_bytes
from jaxavatar.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do at best.

    Attributes:
        flops: per second, of matrix products in bfloat16 (TPU) or float32 (CPU).
        memory: bytes.
        bandwidth: of that memory, bytes per second.
        ring: bytes per second that a chip sends to its neighbours along one axis of the torus,
            both directions together.
        source: of these numbers.
    """

    flops: float
    memory: float
    bandwidth: float
    ring: float
    source: str


_DOCS = "https://docs.cloud.google.com/tpu/docs/"
# Along one axis go two of the 4 (v5e, v6e) or 6 (v5p) links, one outward direction each: the
# documented bidirectional bandwidth of a chip over its number of links.
TPUS = {
    "v5e": Chip(197e12, 16e9, 819e9, 400e9 / 4, _DOCS + "v5e"),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 1200e9 / 6, _DOCS + "v5p"),
    "v6e": Chip(918e12, 32e9, 1600e9, 800e9 / 4, _DOCS + "v6e"),
}


def parse_topology(text: str) -> tuple[str, tuple[int, ...]]:
    """Split the likes of "v5e:4x4" into kind and sides.

    Raises:
        InputError: there is no such topology.
    """
    kind, _, shape = text.partition(":")
    axes = {"v5e": 2, "v6e": 2, "v5p": 3, "cpu": 1}.get(kind)
    if axes is None or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise InputError(
            f"'{text}' is no topology; write v5e:4x4, v6e:4x4, v5p:4x4x4 or cpu:8, with other sizes"
        )
    sides = tuple(int(side) for side in shape.split("x"))
    even = kind == "cpu" or math.prod(sides) == 1 or not any(side % 2 for side in sides[:2])
    if len(sides) != axes or not even:
        raise InputError(
            f"'{text}' is no topology: {kind} wants {axes} side{'s' * (axes > 1)}"
            f"{'' if kind == 'cpu' else ', the first two even'}, such as"
            f" {kind}:{'x'.join(['4'] * axes)}"
        )
    return kind, sides


def find_devices(kind: str, sides: tuple[int, ...]) -> list[Any]:
    """Return the devices of a topology, for ahead-of-time compilation.

    Raises:
        InputError: libtpu is missing or does not know them, or there are too few CPU devices.
    """
    count = math.prod(sides)
    if kind == "cpu":
        devices = jax.devices("cpu")
        if len(devices) < count:
            raise InputError(
                f"there are {len(devices)} simulated devices and {count} are asked for; set"
                f" XLA_FLAGS=--xla_force_host_platform_device_count={count}"
            )
        return devices[:count]
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("libtpu is not installed; install the extra: pip install 'jaxavatar[tpu]'")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no TPU machine to ask
    least = [max(side, 2 if axis < 2 else 1) for axis, side in enumerate(sides)]
    name = f"{kind}:{'x'.join(map(str, least))}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name)
    except jax.errors.JaxRuntimeError as error:
        told = str(error).splitlines()[0]
        raise InputError(f"libtpu knows no topology {name} ({told}); choose another") from error
    return list(found.devices)[:count]


def squares(kind: str, largest: int = 256) -> list[tuple[int, ...]]:
    """Return sides of a few topologies of one kind, from one chip up, for a curve."""
    if kind == "cpu":
        return [(2**k,) for k in range(9) if 2**k <= largest]
    known = {
        "v5p": [(1, 1, 1), (2, 2, 1), (2, 2, 4), (4, 4, 4), (4, 8, 8)],
    }.get(kind, [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16)])
    return [sides for sides in known if math.prod(sides) <= largest]


def find_chip(kind: str, count: int) -> Chip:
    """Return what one chip can do; of CPU devices, an equal share of what is measured here."""
    return TPUS[kind] if kind != "cpu" else _measure_cpu(count)


def _measure_cpu(count: int) -> Chip:
    """Time a matrix product and a copy; both are the best of several."""
    side, length = 1024, 2**25
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(side, side)), jnp.float32)
    row = jnp.zeros(length, jnp.float32)
    flops = 2 * side**3 / _best(jax.jit(jnp.dot), matrix, matrix)
    bandwidth = 8 * length / _best(jax.jit(lambda x: x + 1), row)
    source = "measured: a product of 1024 x 1024 matrices, 128 MB read and written"
    share = bandwidth / count
    return Chip(flops / count, available_bytes() / count, share, share, source)


def _best(function: Any, *arguments: Any) -> float:
    def once() -> float:
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(5))
