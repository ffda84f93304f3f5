"""A small video autoencoder: frames to latents and back.

Space is halved by moving 2 x 2 pixels into channels, time by moving pairs of frames, and every
level mixes 3 x 3 neighbourhoods and, below, neighbouring frames. Latents are bounded by a soft
clip, so that their size needs no statistics.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.teachers.video_dit.config import AutoencoderConfig

_BOUND = 3.0


class Level(nn.Module):
    """Residual mixing of neighbouring pixels and frames."""

    width: int

    @nn.compact
    def __call__(self, clip: Float[Array, "B T H W c"]) -> Float[Array, "B T H W width"]:
        """Return `width` channels."""
        clip = nn.Dense(self.width, name="in")(clip)
        hidden = nn.RMSNorm(name="norm")(clip)
        hidden = nn.silu(nn.Conv(self.width, (1, 3, 3), name="space")(hidden))
        hidden = nn.Conv(self.width, (3, 1, 1), kernel_init=nn.initializers.zeros, name="time")(
            hidden
        ) + nn.Dense(self.width, name="out")(hidden)
        return clip + hidden


class Autoencoder(nn.Module):
    """`encode` and `decode`; called, it does both."""

    config: AutoencoderConfig

    def setup(self):
        """Build the levels."""
        widths = self.config.widths
        self.down = [Level(width) for width in widths]
        self.up = [Level(width) for width in reversed(widths)]
        self.spread = [
            nn.Dense(4 * self._pair(k) * widths[k]) for k in range(len(widths) - 1, 0, -1)
        ]
        self.to_latent = nn.Dense(self.config.channels)
        self.to_pixels = nn.Dense(3)

    def __call__(self, frames: Float[Array, "B T H W 3"]) -> Float[Array, "B T H W 3"]:
        """Return the frames as the latents keep them."""
        return self.decode(self.encode(frames))

    def encode(self, frames: Float[Array, "B T H W 3"]) -> Float[Array, "B t h w c"]:
        """Return latents in (-3, 3) of frames in [0, 1]."""
        clip = 2.0 * frames - 1.0
        for k, level in enumerate(self.down):
            if k:
                clip = _fold(clip, self._pair(k))
            clip = level(clip)
        return _BOUND * jnp.tanh(self.to_latent(clip) / _BOUND)

    def decode(self, latents: Float[Array, "B t h w c"]) -> Float[Array, "B T H W 3"]:
        """Return frames, around [0, 1]."""
        clip = self.up[0](latents)
        for k, (spread, level) in enumerate(zip(self.spread, self.up[1:], strict=True)):
            clip = level(_unfold(spread(clip), self._pair(len(self.spread) - k)))
        return 0.5 * (self.to_pixels(clip) + 1.0)

    def _pair(self, level: int) -> int:
        """Return how many frames the halving before a level joins."""
        return 2 if level >= len(self.config.widths) - self.config.temporal else 1


def _fold(clip: Float[Array, "B T H W c"], pair: int) -> Float[Array, "B t h w c2"]:
    """Move `pair` frames of 2 x 2 pixels into channels."""
    batch, frames, height, width, channels = clip.shape
    cut = clip.reshape(batch, frames // pair, pair, height // 2, 2, width // 2, 2, channels)
    cut = cut.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return cut.reshape(*cut.shape[:4], 4 * pair * channels)


def _unfold(clip: Float[Array, "B t h w c2"], pair: int) -> Float[Array, "B T H W c"]:
    """Undo `_fold`."""
    batch, frames, height, width, channels = clip.shape
    cut = clip.reshape(batch, frames, height, width, pair, 2, 2, channels // (4 * pair))
    cut = cut.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return cut.reshape(batch, frames * pair, 2 * height, 2 * width, -1)
