"""Backend "native": projection in JAX; its gradient, compositing and its derivatives in C++."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_splat.config import Config
from pallas_splat.native.compositing import composite_projected, median_projected
from pallas_splat.structs import Composite, Info, Projected


def composite(
    projected: Projected,
    values: Float[Array, "N D"],
    width: int,
    height: int,
    config: Config,
    *,
    threads: int = 0,
) -> Composite:
    """Composite Gaussians in depth order; there is no list of intersections to overflow.

    Args:
        projected: 2D Gaussians, float32.
        values: what to composite, float32.
        width: of the image, pixels.
        height: of the image, pixels.
        config: ignored; it holds the sizes of other engines.
        threads: how many may work, of those that XLA owns; 0 stands for all.

    Returns:
        The composited attributes.

    Raises:
        NotImplementedError: an array is not float32, or the kernels are unavailable here.
    """
    del config
    composited, alpha = composite_projected(projected, values, width, height, threads=threads)
    return Composite(composited, alpha, Info(jnp.int32(0), jnp.int32(0), jnp.bool_(False)))


def median(
    projected: Projected, width: int, height: int, config: Config, *, threads: int = 0
) -> Int[Array, "H W"]:
    """Find the Gaussian that takes each pixel's transmittance to one half or below, or -1.

    Args:
        projected: 2D Gaussians, float32.
        width: of the image, pixels.
        height: of the image, pixels.
        config: ignored; it holds the sizes of other engines.
        threads: how many may work, of those that XLA owns; 0 stands for all.

    Raises:
        NotImplementedError: an array is not float32, or the kernels are unavailable here.
    """
    del config
    return median_projected(projected, width, height, threads=threads)
