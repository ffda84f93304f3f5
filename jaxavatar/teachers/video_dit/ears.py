"""What the video transformer hears: speech features around every frame, and their summary.

A module of its own, because it can be taught by itself, a hundred times as fast as together with
the transformer (`training.ears`).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.teachers.video_dit.config import VideoDiTConfig


class Ears(nn.Module):
    """Speech features to tokens to attend to, and to a vector that modulates the blocks."""

    config: VideoDiTConfig

    @nn.compact
    def __call__(
        self, audio: Float[Array, "B T_context d_a"], heard: Float[Array, " B"], frames: int
    ) -> tuple[Float[Array, "B T w d"], Float[Array, "B T d"]]:
        """Return the tokens around every frame of a clip, and the summary of each frame's.

        Args:
            audio: speech features with `config.reach` frames more on either side.
            heard: 1 where the speech is known, 0 where it is left out.
            frames: T, of the latents; several frames of speech may share one.
        """
        config = self.config

        def dense(name: str) -> nn.Dense:
            return nn.Dense(config.width, dtype=config.dtype, name=name)

        seen = 2 * config.reach + 1
        states = nn.LayerNorm(dtype=config.dtype, name="norm")(audio)
        states = dense("out")(nn.gelu(dense("in")(states)))
        # Several latents' frames may share a latent: it listens around the first of them.
        stride = (audio.shape[1] - 2 * config.reach) // frames
        around = stride * np.arange(frames)[:, None] + np.arange(seen)
        silence = self.param("silence", nn.initializers.normal(0.02), (seen, config.width))
        known = heard[:, None, None, None] > 0
        tokens = jnp.where(known, states[:, around], silence)
        lag = self.param("lag", nn.initializers.normal(0.02), (seen, config.width))
        tokens = cast(tokens + lag, config.dtype)
        summary = tokens.reshape(*tokens.shape[:2], -1)
        return tokens, dense("summary_out")(nn.gelu(dense("summary_in")(summary)))


def cast(tokens: Float[Array, "*N d"], dtype: Any) -> Float[Array, "*N d"]:
    """Return the tokens as `dtype`, unless that is None."""
    return tokens if dtype is None else tokens.astype(dtype)
