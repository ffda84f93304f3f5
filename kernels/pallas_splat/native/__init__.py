"""The CPU engine: C++ through `jax.ffi`, compiled at first use."""

from pallas_splat.native.backend import composite, median
from pallas_splat.native.call import announce_unavailable, available, unavailable_reason
from pallas_splat.native.compositing import composite_projected, median_projected
from pallas_splat.native.projection import project

__all__ = [
    "announce_unavailable",
    "available",
    "composite",
    "composite_projected",
    "median",
    "median_projected",
    "project",
    "unavailable_reason",
]
