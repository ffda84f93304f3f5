"""Distances between pictures, pixel by pixel (paper, sec. 3.3, L_img)."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Of Wang et al.: a Gaussian of 1.5 pixels, cut off at 5, and the constants for values in [0, 1].
_SPREAD, _RADIUS = 1.5, 5
_C1, _C2 = 0.01**2, 0.03**2


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


def ssim(images: Float[Array, "*B H W C"], targets: Float[Array, "*B H W C"]) -> Float[Array, "*B"]:
    """Return the structural similarity of each image, 1 for equal ones.

    Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004):
    statistics under a Gaussian of 1.5 pixels, each channel by itself, the mean over the pixels at
    least 5 from the border.

    Args:
        images: [0, 1]; at least 11 pixels on each side.
        targets: the same shape.

    Raises:
        ValueError: the pictures are too small.
    """
    if min(images.shape[-3:-1]) <= 2 * _RADIUS:
        raise ValueError(f"SSIM needs more than {2 * _RADIUS} pixels a side, got {images.shape}")
    mean, other_mean = _blur(images), _blur(targets)
    variance = _blur(images**2) - mean**2
    other_variance = _blur(targets**2) - other_mean**2
    covariance = _blur(images * targets) - mean * other_mean
    luminance = (2 * mean * other_mean + _C1) / (mean**2 + other_mean**2 + _C1)
    structure = (2 * covariance + _C2) / (variance + other_variance + _C2)
    return jnp.mean(luminance * structure, axis=(-1, -2, -3))


def _blur(images: Float[Array, "*B H W C"]) -> Float[Array, "*B h w C"]:
    """Average under the Gaussian where it fits into the picture."""
    weights = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SPREAD) ** 2)
    weights = (weights / weights.sum()).astype(images.dtype)
    # Shifted sums compile into one loop everywhere; convolutions of one channel do not.
    height, width = images.shape[-3] - 2 * _RADIUS, images.shape[-2] - 2 * _RADIUS
    rows = [w * images[..., i : i + height, :, :] for i, w in enumerate(weights)]
    tall = functools.reduce(jnp.add, rows)
    columns = [w * tall[..., i : i + width, :] for i, w in enumerate(weights)]
    return functools.reduce(jnp.add, columns)
