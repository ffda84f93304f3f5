"""The CPU engine: C++ through `jax.ffi`, compiled at first use."""

from pallas_splat.native.backend import composite
from pallas_splat.native.op import available, composite_projected, unavailable_reason

__all__ = ["available", "composite", "composite_projected", "unavailable_reason"]
