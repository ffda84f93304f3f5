"""Wan2.1's causal video decoder: latents to frames, to look at what a teacher draws."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.teachers.wan.causal import (
    ActivatedNorm,
    CausalConv,
    FrameAttention,
    ResidualBlock,
    Upsample,
    Video,
)
from jaxavatar.teachers.wan.config import AutoencoderConfig
from jaxavatar.teachers.wan.precision import exact

Params = Any


class WanDecoder(nn.Module):
    """The mirror image of `WanEncoder`, with one more residual block per stage."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, latents: Float[Array, "B F h w z"]) -> Float[Array, "B T H W 3"]:
        """Decode normalised latents to frames in about [0, 1]."""
        config = self.config
        widths = config.widths[::-1]
        x = latents * jnp.array(config.deviation) + jnp.array(config.mean)
        x = nn.Dense(config.latents, dtype=config.dtype, name="latents")(x)
        x = CausalConv(widths[0], dtype=config.dtype, name="first")(x)
        x = ResidualBlock(widths[0], config.dtype, name="middle0")(x)
        x = FrameAttention(config.dtype, name="attention")(x)
        x = ResidualBlock(widths[0], config.dtype, name="middle1")(x)
        for stage, width in enumerate(widths):
            for block in range(config.blocks + 1):
                x = ResidualBlock(width, config.dtype, name=f"up{stage}_{block}")(x)
            if stage < len(config.halve_time):
                double_time = config.halve_time[::-1][stage]
                x = Upsample(double_time, config.dtype, name=f"up{stage}")(x)
        x = ActivatedNorm(True, name="norm")(x)
        return (exact(CausalConv(3, dtype=config.dtype, name="last")(x)) + 1) / 2


def decode(
    config: AutoencoderConfig, params: Params, latents: Float[Array, "B F h w z"]
) -> Float[Array, "B T H W 3"]:
    """Decode a clip, one latent frame after the other.

    Args:
        config: of the autoencoder.
        params: of `WanDecoder`.
        latents: as `encode` returns them.

    Returns:
        4 (F - 1) + 1 frames, clipped to [0, 1].
    """

    def piece(past: Any, part: Video) -> tuple[Any, Video]:
        frames, changed = WanDecoder(config).apply(
            {"params": params, **past}, part[:, None], mutable=["past"]
        )
        return changed, frames

    past, first = piece({}, latents[:, 0])
    _, later = jax.lax.scan(piece, past, latents[:, 1:].swapaxes(0, 1))
    later = later.swapaxes(0, 1)
    frames = jnp.concatenate([first, later.reshape(first.shape[0], -1, *first.shape[2:])], axis=1)
    return jnp.clip(frames, 0.0, 1.0)
