"""Call the C++ operations: availability, registration, and how they sit inside `shard_map`."""

import functools
import hashlib
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from pallas_splat.linear import vary, varying_axes
from pallas_splat.native import build

_SYMBOLS = {
    "composite": "SplatForward",
    "composite_jvp": "SplatTangent",
    "composite_vjp": "SplatBackward",
    "median": "SplatMedian",
    "project_vjp": "SplatProjectBackward",
}


def available() -> bool:
    """Return whether the kernels can run here; the first call compiles them."""
    return unavailable_reason() is None


@functools.cache
def unavailable_reason() -> str | None:
    """Return in one sentence why the kernels cannot run here and the remedy, or None."""
    try:
        library = build.load()
    except build.UnavailableError as error:
        return str(error)
    for operation, symbol in _SYMBOLS.items():
        handler = jax.ffi.pycapsule(getattr(library, symbol))
        jax.ffi.register_ffi_target(_target(operation), handler, platform="cpu")
    return None


def _target(operation: str) -> str:
    """Return the name an operation is registered under.

    It names the library too: XLA refuses a second handler for a name, and a process that changes
    the cache folder loads a second library.
    """
    library = hashlib.sha256(build.load()._name.encode()).hexdigest()[:12]
    return f"pallas_splat_{operation}_{library}"


@functools.cache
def announce_unavailable() -> None:
    """Warn, once per process, that backend "xla" takes over and how to change that."""
    warnings.warn(
        f"splatting on the CPU falls back to the slower backend 'xla': {unavailable_reason()}",
        RuntimeWarning,
        stacklevel=2,
    )


def require(arrays: Any) -> None:
    """Check that the kernels are available and that all floating arrays of a pytree are float32.

    Raises:
        NotImplementedError: they are not.
    """
    if reason := unavailable_reason():
        raise NotImplementedError(f"backend 'native' is unavailable: {reason}")
    for array in jax.tree.leaves(arrays):
        if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype != jnp.float32:
            raise NotImplementedError(
                f"backend 'native' computes in float32, got {array.dtype}; use backend 'xla'"
            )


def call(operation: str, outputs: PyTree, *arguments: Array, **attributes: Any) -> Any:
    """Run an operation; under `vmap` its arguments get leading batch dimensions.

    JAX cannot differentiate it: the rule of `linear.two_way` around it does, once.

    Args:
        operation: a key of `_SYMBOLS`.
        outputs: pytree of `jax.ShapeDtypeStruct`, or of shapes whose type is float32.
        arguments: arrays that vary over the same axes of a `shard_map`, see `linear.vary_together`.
        attributes: NumPy scalars.

    Returns:
        Arrays in the structure of `outputs`.

    Raises:
        NotImplementedError: when a derivative is asked for.
    """
    shapes, structure = jax.tree.flatten(outputs, is_leaf=lambda leaf: isinstance(leaf, tuple))
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) if isinstance(shape, tuple) else shape
        for shape in shapes
    ]
    run = jax.ffi.ffi_call(_target(operation), shapes, vmap_method="broadcast_all")

    @jax.custom_jvp
    def run_undifferentiated(*arguments):
        return run(*arguments, **attributes)

    run_undifferentiated.defjvp(_refuse_derivative)
    axes = varying_axes(arguments)
    results = run_undifferentiated(*arguments)
    return jax.tree.unflatten(structure, [vary(result, axes) for result in results])


def _refuse_derivative(primals, tangents):
    del primals, tangents
    raise NotImplementedError(
        "backend 'native' has first derivatives only; use backend 'xla' or 'reference'"
    )
