"""The engines by name, and which of them run here.

An engine is a module with these functions, all of which work under `jit` and `vmap`:

- `project(gaussians, camera, config) -> Projected`;
- `composite(projected, values [N, D], width, height, config) -> Composite`, differentiable with
  respect to the values and to `projected` but for its depth, extents and visibility;
- `median(projected, width, height, config) -> [H, W]` int32: the Gaussian that takes the pixel's
  transmittance to one half or below, -1 where none does;

and, where it keeps lists of tiles, `count(projected, width, height, config) -> []` int32: the
entries that it needs.
"""

import importlib

import jax
import jax.numpy as jnp

BACKENDS = {
    "reference": "pallas_splat.reference",
    "xla": "pallas_splat.xla",
    "native": "pallas_splat.native",
    "pallas": "pallas_splat.pallas",
}
"""Modules by backend name, imported on first use."""


def engine(backend: str):
    """Import the module of a backend.

    Raises:
        ValueError: there is no backend of that name.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {sorted(BACKENDS)} or None, got {backend!r}")
    return importlib.import_module(BACKENDS[backend])


def available(backend: str) -> bool:
    """Return whether a backend runs on JAX's default device; asking for "native" compiles it."""
    if backend == "native":
        return jax.default_backend() == "cpu" and engine(backend).available()
    if backend == "pallas":
        return engine(backend).available()
    return backend in BACKENDS


def default_backend(dtype=jnp.float32) -> str:
    """Name the fastest backend that runs on JAX's default device for a type of numbers.

    Warns once where only a missing compiler keeps the fastest one away.
    """
    if dtype != jnp.float32:
        return "xla"
    if jax.default_backend() == "gpu":
        return "pallas" if available("pallas") else "xla"
    if jax.default_backend() != "cpu":
        return "xla"
    if available("native"):
        return "native"
    engine("native").announce_unavailable()
    return "xla"
