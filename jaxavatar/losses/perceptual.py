"""Distances between pictures as fixed networks see them (paper, sec. 3.3, L_img).

Two encoders: EfficientNet-Lite0 (`perceptual`), and the VGG16 of LPIPS with its learned channel
weights (`lpips`; Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", 2018), whose weights must be imported.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.perception import efficientnet, vgg


def perceptual(
    params: efficientnet.Params,
    images: Float[Array, "*B H W 3"],
    targets: Float[Array, "*B H W 3"],
    taps: Sequence[int] = efficientnet.TAPS,
) -> Float[Array, ""]:
    """Return the mean square distance of feature vectors of unit length.

    Args:
        params: from `efficientnet.load`.
        images: [0, 1], at least 32 pixels a side.
        targets: the same shape.
        taps: blocks of the network whose outputs count, all alike.

    Returns:
        The square of the chord between two unit vectors, in [0, 4], a mean over positions,
        pictures and blocks.
    """
    ours = efficientnet.features(params, images, taps)
    theirs = efficientnet.features(params, targets, taps)
    chords = [
        jnp.sum((unit(a) - unit(b)) ** 2, axis=-1).mean() for a, b in zip(ours, theirs, strict=True)
    ]
    return jnp.stack(chords).mean()


def lpips(
    params: vgg.Params, images: Float[Array, "*B H W 3"], targets: Float[Array, "*B H W 3"]
) -> Float[Array, "*B"]:
    """Return the learned perceptual distance of each picture (LPIPS, version 0.1, VGG).

    Args:
        params: from `vgg.load_lpips`.
        images: [0, 1], at least 16 pixels a side.
        targets: the same shape.
    """
    ours, theirs = vgg.features(params, images), vgg.features(params, targets)
    layers = [
        jnp.mean(jnp.sum(params["channels"][name] * (unit(a) - unit(b)) ** 2, axis=-1), (-1, -2))
        for name, a, b in zip(vgg.CHANNELS, ours, theirs, strict=True)
    ]
    return jnp.stack(layers).sum(axis=0)


def unit(features: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """Scale vectors to length 1; those of length 0 stay, and their gradient is finite."""
    length = jnp.sqrt(jnp.sum(features**2, axis=-1, keepdims=True) + 1e-20)
    return features / (length + 1e-10)
