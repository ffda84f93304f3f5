"""Wan2.1's causal video encoder: what eq. 8 differentiates.

A clip of 1 + 4 n frames is encoded piece by piece, one frame and then four at a time. That gives
exactly the latents of the whole clip, because every layer looks only back, and a gradient that
needs the memory of one piece.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.teachers.wan.causal import (
    ActivatedNorm,
    CausalConv,
    Downsample,
    FrameAttention,
    ResidualBlock,
    Video,
)
from jaxavatar.teachers.wan.config import AutoencoderConfig
from jaxavatar.teachers.wan.precision import exact

Params = Any


class WanEncoder(nn.Module):
    """Means of the latents' distribution, normalised; see `causal` for how clips are continued."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, frames: Float[Array, "B T H W 3"]) -> Float[Array, "B F h w z"]:
        """Encode frames in [0, 1]: 4 n of them, and one more at the clip's beginning."""
        config = self.config
        widths = config.widths
        x = CausalConv(widths[0], dtype=config.dtype, name="first")(2 * frames - 1)
        number = 0
        for stage, width in enumerate(widths):
            for _ in range(config.blocks):
                x = ResidualBlock(width, config.dtype, name=f"down{number}")(x)
                number += 1
            if stage < len(config.halve_time):
                halve_time = config.halve_time[stage]
                x = Downsample(halve_time, config.dtype, name=f"down{number}")(x)
                number += 1
        x = ResidualBlock(widths[-1], config.dtype, name="middle0")(x)
        x = FrameAttention(config.dtype, name="attention")(x)
        x = ResidualBlock(widths[-1], config.dtype, name="middle1")(x)
        x = ActivatedNorm(True, name="norm")(x)
        x = CausalConv(2 * config.latents, dtype=config.dtype, name="last")(x)
        moments = exact(nn.Dense(2 * config.latents, dtype=config.dtype, name="moments")(x))
        means = moments[..., : config.latents]
        return (means - jnp.array(config.mean)) / jnp.array(config.deviation)


def encode(
    config: AutoencoderConfig, params: Params, frames: Float[Array, "B T H W 3"]
) -> Float[Array, "B F h w z"]:
    """Encode a clip piece by piece; a gradient recomputes each piece from its beginning.

    Args:
        config: of the autoencoder.
        params: of `WanEncoder`.
        frames: 4 n + 1, in [0, 1]; height and width are multiples of 8.

    Returns:
        n + 1 latent frames, an eighth of the size, normalised to about mean 0 and variance 1.

    Raises:
        ValueError: another number of frames, or another size.
    """
    check_shape(config, frames.shape)

    @jax.checkpoint
    def piece(past: Any, part: Video) -> tuple[Any, Video]:
        latents, changed = WanEncoder(config).apply(
            {"params": params, **past}, part, mutable=["past"]
        )
        return changed, latents[:, 0]

    past, first = piece({}, frames[:, :1])
    batch, count = frames.shape[:2]
    rest = frames[:, 1:].reshape(batch, (count - 1) // config.time, config.time, *frames.shape[2:])
    _, later = jax.lax.scan(piece, past, rest.swapaxes(0, 1))
    return jnp.concatenate([first[:, None], later.swapaxes(0, 1)], axis=1)


def check_shape(config: AutoencoderConfig, shape: tuple[int, ...]) -> None:
    """Insist on frames [B, T, H, W, 3] that the encoder takes.

    Raises:
        ValueError: they do not fit.
    """
    _, count, height, width, _ = shape
    if count % config.time != 1 or height % config.space or width % config.space:
        raise ValueError(
            f"clips have {config.time} n + 1 frames with sides of multiples of {config.space}"
            f" pixels, got {count} of {height} x {width}"
        )
