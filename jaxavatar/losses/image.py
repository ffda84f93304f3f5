"""Distances between pictures (paper, sec. 3.3, L_img)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def l1(
    images: Float[Array, "*B H W C"],
    targets: Float[Array, "*B H W C"],
    mask: Float[Array, "*B H W"] | None = None,
) -> Float[Array, ""]:
    """Average the absolute difference over pixels and channels.

    Args:
        images: [0, 1].
        targets: the same shape.
        mask: weight of each pixel, not negative; the average is over the weights. An empty mask
            gives zero.
    """
    difference = jnp.abs(images - targets)
    if mask is None:
        return difference.mean()
    total = jnp.sum(mask) * images.shape[-1]
    return jnp.sum(difference * mask[..., None]) / jnp.maximum(total, 1e-6)


def psnr(images: Float[Array, "*B H W C"], targets: Float[Array, "*B H W C"]) -> Float[Array, "*B"]:
    """Return the peak signal-to-noise ratio of each image in dB, for values in [0, 1].

    Equal images give 100 dB, not infinity.
    """
    error = jnp.mean((images - targets) ** 2, axis=(-1, -2, -3))
    return -10 * jnp.log10(jnp.maximum(error, 1e-10))
