"""The CPU engine: C++ through `jax.ffi`, compiled at first use."""

from pallas_splat.native.backend import composite
from pallas_splat.native.op import (
    announce_unavailable,
    available,
    composite_projected,
    unavailable_reason,
)

__all__ = [
    "announce_unavailable",
    "available",
    "composite",
    "composite_projected",
    "unavailable_reason",
]
