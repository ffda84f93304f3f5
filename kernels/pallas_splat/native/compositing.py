"""Composite projected Gaussians on the CPU, in C++.

No tiles and no list of intersections: Gaussians are sorted by depth and blended front to back into
rows of pixels, a vector at a time; threads share the image in bands of rows. The gradient replays
the same order with the part of <cotangent, result> that is still behind. Every band sums its
gradients in rows of its own, which are then added in the order of the bands, so image and
gradients are bitwise the same from run to run and for any number of threads on one machine (CPUs
with and without AVX2 differ by rounding).
"""

import functools

import jax
import numpy as np
from jaxtyping import Array, Float

from pallas_splat.linear import vary_together
from pallas_splat.native.call import call, require
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
    require((projected, attributes))
    shape = (
        projected.x,
        projected.y,
        projected.conic_xx,
        projected.conic_xy,
        projected.conic_yy,
        projected.opacity,
    )
    cover = (projected.depth, projected.extent_x, projected.extent_y, projected.visible)
    shape, cover, attributes = vary_together((shape, cover, attributes))
    return _composite(shape, cover, attributes, width, height, threads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _composite(shape: _Arrays, cover: _Arrays, attributes, width: int, height: int, threads: int):
    return _forward(shape, cover, attributes, width, height, threads)[0]


def _forward(shape: _Arrays, cover: _Arrays, attributes, width: int, height: int, threads: int):
    outputs = call(
        "composite",
        [(height, width, attributes.shape[-1]), (height, width)],
        *shape,
        *cover,
        attributes,
        threads=np.int64(threads),
    )
    return tuple(outputs), (shape, cover, attributes, outputs)


def _backward(width: int, height: int, threads: int, residuals, cotangents):
    del width, height
    shape, cover, attributes, outputs = residuals
    arguments = (*shape, *cover, attributes, *outputs, *cotangents)
    shapes = [array.shape for array in (*shape, attributes)]
    *d_shape, d_attributes = call("composite_vjp", shapes, *arguments, threads=np.int64(threads))
    return tuple(d_shape), None, d_attributes


_composite.defvjp(_forward, _backward)
