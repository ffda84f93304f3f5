"""Backend "reference": every Gaussian in every pixel, written to be read and differentiated.

It is the definition that the other backends are tested against. It works in any float type and
under every transformation of JAX, and needs memory for N x H x W numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_splat.config import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN, Config
from pallas_splat.project import project
from pallas_splat.structs import Composite, Info, Projected

__all__ = ["composite", "median", "project"]


def composite(
    projected: Projected, values: Float[Array, "N D"], width: int, height: int, config: Config
) -> Composite:
    """Composite all Gaussians in all pixels, front to back.

    With `alpha_k = min(0.99, o_k exp(-sigma_k))`, zero below 1/255, and `T_k` the product of
    `1 - alpha_j` over the Gaussians up to and including k, the weight of k is
    `alpha_k T_(k-1)`, or zero once `T_k < 1e-4`. T never grows, so that once is for good.

    Args:
        projected: 2D Gaussians.
        values: what to composite.
        width: of the image, pixels.
        height: of the image, pixels.
        config: ignored; it holds the sizes of other engines.

    Returns:
        The composited attributes.
    """
    del config
    order, weights, _ = _weights(projected, width, height)
    return Composite(
        values=jnp.einsum("nhw,nd->hwd", weights, values[order], precision="highest"),
        alpha=jnp.sum(weights, axis=0),
        info=Info(jnp.int32(0), jnp.int32(0), jnp.bool_(False)),
    )


def median(projected: Projected, width: int, height: int, config: Config) -> Int[Array, "H W"]:
    """Find the Gaussian that takes each pixel's transmittance to one half or below, or -1."""
    del config
    order, weights, through = _weights(projected, width, height)
    halves = (weights > 0) & (through <= 0.5)
    first = order[jnp.argmax(halves, axis=0)].astype(jnp.int32)
    return jnp.where(jnp.any(halves, axis=0), first, -1)


def _weights(projected: Projected, width: int, height: int):
    """Depth order; weights and transmittances [N, H, W] in that order."""
    order = jnp.argsort(projected.depth, stable=True)
    alpha = _alphas(jax.tree.map(lambda a: a[order, None, None], projected), width, height)
    open_air = jnp.ones_like(alpha, shape=(1, *alpha.shape[1:]))
    through = jnp.cumprod(jnp.concatenate([open_air, 1 - alpha]), axis=0)
    weights = jnp.where(through[1:] > TRANSMITTANCE_MIN, alpha * through[:-1], 0)
    return order, weights, through[1:]


def _alphas(projected: Projected, width: int, height: int) -> Float[Array, "N H W"]:
    dtype = projected.x.dtype
    dx = jnp.arange(width, dtype=dtype) + 0.5 - projected.x
    dy = (jnp.arange(height, dtype=dtype) + 0.5)[:, None] - projected.y
    sigma = 0.5 * (projected.conic_xx * dx * dx + projected.conic_yy * dy * dy)
    sigma = sigma + projected.conic_xy * dx * dy
    alpha = projected.opacity * jnp.exp(-jnp.maximum(sigma, 0))
    alpha = jnp.where(alpha < ALPHA_MAX, alpha, ALPHA_MAX)
    return jnp.where(projected.visible & (alpha >= ALPHA_MIN), alpha, 0)
