"""Composite projected Gaussians on the CPU, in C++ through `jax.ffi`.

No tiles and no list of intersections: Gaussians are sorted by depth and blended front to back into
rows of pixels, a vector at a time; threads share the image in bands of rows. The gradient replays
the same order with the part of <cotangent, result> that is still behind. Every band sums its
gradients in rows of its own, which are then added in the order of the bands, so image and
gradients are bitwise the same from run to run and for any number of threads on one machine (CPUs
with and without AVX2 differ by rounding).
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from pallas_splat.native import build
from pallas_splat.structs import Projected

_Arrays = tuple[Array, ...]


def composite_projected(
    projected: Projected,
    attributes: Float[Array, "N D"],
    width: int,
    height: int,
    *,
    threads: int = 0,
) -> tuple[Float[Array, "H W D"], Float[Array, "H W"]]:
    """Blend attributes of projected Gaussians front to back.

    Works under `jit`, `vmap` (views then share the threads), `shard_map` and reverse-mode
    differentiation, with respect to the attributes and to `projected` except for its depth,
    extents and visibility.

    Args:
        projected: 2D Gaussians, float32; those with a conic that is not finite are not drawn.
        attributes: what to blend, float32.
        width: of the image, pixels.
        height: of the image, pixels.
        threads: how many may work, of those that XLA owns; 0 stands for all.

    Returns:
        The sum of weight times attribute per pixel, and the sum of weights.

    Raises:
        NotImplementedError: an array is not float32, or the kernels are unavailable here.
    """
    if reason := unavailable_reason():
        raise NotImplementedError(f"backend 'native' is unavailable: {reason}")
    shape = (
        projected.x,
        projected.y,
        projected.conic_xx,
        projected.conic_xy,
        projected.conic_yy,
        projected.opacity,
    )
    cover = (projected.depth, projected.extent_x, projected.extent_y, projected.visible)
    for array in (*shape, *cover[:-1], attributes):
        if array.dtype != jnp.float32:
            raise NotImplementedError(
                f"backend 'native' computes in float32, got {array.dtype}; use backend 'xla'"
            )
    arguments = (shape, cover, attributes)
    axes = frozenset().union(*(_varying(array) for array in jax.tree.leaves(arguments)))
    shape, cover, attributes = _vary(arguments, axes)
    return _composite(shape, cover, attributes, width, height, threads)


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
    for target, symbol in (("forward", "SplatForward"), ("backward", "SplatBackward")):
        handler = jax.ffi.pycapsule(getattr(library, symbol))
        jax.ffi.register_ffi_target(f"pallas_splat_{target}", handler, platform="cpu")
    return None


@functools.cache
def announce_unavailable() -> None:
    """Warn, once per process, that backend "xla" takes over and how to change that."""
    warnings.warn(
        f"splatting on the CPU falls back to the slower backend 'xla': {unavailable_reason()}",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _composite(shape: _Arrays, cover: _Arrays, attributes, width: int, height: int, threads: int):
    return _forward(shape, cover, attributes, width, height, threads)[0]


def _forward(shape: _Arrays, cover: _Arrays, attributes, width: int, height: int, threads: int):
    call = jax.ffi.ffi_call(
        "pallas_splat_forward",
        (
            jax.ShapeDtypeStruct((height, width, attributes.shape[-1]), jnp.float32),
            jax.ShapeDtypeStruct((height, width), jnp.float32),
        ),
        vmap_method="broadcast_all",
    )
    outputs = call(*shape, *cover, attributes, threads=np.int64(threads))
    outputs = _vary(outputs, _varying(attributes))
    return outputs, (shape, cover, attributes, outputs)


def _backward(width: int, height: int, threads: int, residuals, cotangents):
    del width, height
    shape, cover, attributes, outputs = residuals
    call = jax.ffi.ffi_call(
        "pallas_splat_backward",
        [jax.ShapeDtypeStruct(array.shape, jnp.float32) for array in (*shape, attributes)],
        vmap_method="broadcast_all",
    )
    gradients = call(*shape, *cover, attributes, *outputs, *cotangents, threads=np.int64(threads))
    *d_shape, d_attributes = _vary(gradients, _varying(attributes))
    return tuple(d_shape), None, d_attributes


# Inside `shard_map`, JAX tracks over which axes of the mesh an array varies. The C++ calls take and
# give arrays that all vary over the same axes; JAX then adds up the gradients of those inputs that
# the shards have in common.


def _varying(array: Array) -> frozenset[str]:
    return jax.typeof(array).manual_axis_type.varying


def _vary(arrays, axes: frozenset[str]):
    def vary(array):
        missing = tuple(axes - _varying(array))
        return lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(vary, arrays)


_composite.defvjp(_forward, _backward)
