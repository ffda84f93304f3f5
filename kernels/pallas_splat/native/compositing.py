"""Composite projected Gaussians on the CPU, in C++, with both modes of differentiation.

No tiles and no list of intersections: Gaussians are sorted by depth and blended front to back into
rows of pixels, a vector at a time; threads share the image in bands of rows. The gradient replays
the same order with the part of <cotangent, result> that is still behind; the tangent replays it
with dual numbers. Every band sums its gradients in rows of its own, which are then added in the
order of the bands, so image and derivatives are bitwise the same from run to run and for any number
of threads on one machine (machines with other vector instructions differ by rounding).

The working memory of the kernels, up to 128 MB, is kept between calls. On the way back every pair
of a Gaussian and a band it touches takes 4 (6 + D) bytes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_splat.linear import two_way, vary_together
from pallas_splat.native.call import call, require
from pallas_splat.structs import Projected

_Arrays = tuple[Array, ...]


class _Static(NamedTuple):
    width: int
    height: int
    threads: int


def composite_projected(
    projected: Projected,
    attributes: Float[Array, "N D"],
    width: int,
    height: int,
    *,
    threads: int = 0,
) -> tuple[Float[Array, "H W D"], Float[Array, "H W"]]:
    """Blend attributes of projected Gaussians front to back.

    Works under `jit`, `vmap` (views then share the threads), `shard_map` and, once, in forward or
    reverse mode of differentiation, with respect to the attributes and to `projected` except for
    its depth, extents and visibility.

    Args:
        projected: 2D Gaussians, float32; those with a conic that is not finite are not drawn.
        attributes: what to blend, float32.
        width: of the image, pixels.
        height: of the image, pixels.
        threads: how many may work, of those that XLA owns; 0 stands for all.

    Returns:
        The sum of weight times attribute per pixel, and the sum of weights.

    Raises:
        NotImplementedError: an array is not float32, the kernels are unavailable here, or a second
            derivative is asked for.
    """
    require((projected, attributes))
    arguments = (*_shape(projected), attributes)
    return _composite(_Static(width, height, threads), arguments, _cover(projected))


def median_projected(
    projected: Projected, width: int, height: int, *, threads: int = 0
) -> Int[Array, "H W"]:
    """Find the Gaussian that takes each pixel's transmittance to one half or below, or -1.

    Args:
        projected: 2D Gaussians, float32.
        width: of the image, pixels.
        height: of the image, pixels.
        threads: how many may work, of those that XLA owns; 0 stands for all.

    Raises:
        NotImplementedError: an array is not float32, or the kernels are unavailable here.
    """
    require(projected)
    nothing = jnp.zeros((len(projected.x), 0), jnp.float32)
    arguments = (*_shape(projected), *_cover(projected), nothing)
    arguments = lax.stop_gradient(vary_together(arguments))
    output = jax.ShapeDtypeStruct((height, width), jnp.int32)
    return call("median", output, *arguments, threads=np.int64(threads))


def _shape(projected: Projected) -> _Arrays:
    """What alpha depends on."""
    return (
        projected.x,
        projected.y,
        projected.conic_xx,
        projected.conic_xy,
        projected.conic_yy,
        projected.opacity,
    )


def _cover(projected: Projected) -> _Arrays:
    """What only says where and in which order to draw."""
    return projected.depth, projected.extent_x, projected.extent_y, projected.visible


def _forward(static: _Static, arguments: _Arrays, cover: _Arrays):
    inputs = (*arguments[:-1], *cover, arguments[-1])
    outputs = _call("composite", _image_shapes(static, arguments[-1]), inputs, static)
    return outputs, (inputs, outputs)


def _tangent(static: _Static, residuals, tangents: _Arrays):
    inputs, _ = residuals
    shapes = _image_shapes(static, inputs[-1])
    return _call("composite_jvp", shapes, (*inputs, *tangents), static)


def _cotangent(static: _Static, residuals, cotangents: _Arrays):
    inputs, outputs = residuals
    shapes = tuple(array.shape for array in (*inputs[:6], inputs[-1]))
    return _call("composite_vjp", shapes, (*inputs, *outputs, *cotangents), static)


def _image_shapes(static: _Static, attributes: Array):
    shape = (static.height, static.width)
    return (*shape, attributes.shape[-1]), shape


def _call(operation: str, shapes, arguments: _Arrays, static: _Static) -> _Arrays:
    arguments = vary_together(arguments)
    # The leaves of `call` are shapes, which are tuples as well: hence the list around them.
    return tuple(call(operation, list(shapes), *arguments, threads=np.int64(static.threads)))


_composite = two_way(_forward, _tangent, _cotangent)
