"""OmniAvatar's audio adapter: speech added to the tokens, without attention.

The features of the frames that one latent frame stands for become a few numbers; one linear layer
per listening block turns them into a vector that every token of the latent frame gets.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.reconstruction.transformer.norms import LayerNorm
from jaxavatar.teachers.wan.config import AudioConfig
from jaxavatar.teachers.wan.precision import exact

_EPSILON = 1e-5  # PyTorch's default; Wan's own norms have 1e-6


class AudioPack(nn.Module):
    """A few numbers per latent frame from the features of its frames.

    Attributes:
        config: sizes.
        dtype: of the matrix product's inputs.
    """

    config: AudioConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Float[Array, "B T a"]) -> Float[Array, "B F k"]:
        """Pack `group` (F - 1) + 1 frames; the first one counts `group` times.

        Raises:
            ValueError: another number of frames.
        """
        group = self.config.group
        if features.shape[1] % group != 1:
            raise ValueError(
                f"audio has {group} n + 1 frames, as the video; got {features.shape[1]}"
            )
        first = jnp.repeat(features[:, :1], group - 1, axis=1)
        frames = jnp.concatenate([first, features], axis=1)
        grouped = frames.reshape(features.shape[0], -1, group * features.shape[2])
        packed = nn.Dense(self.config.hidden, dtype=self.dtype, name="pack")(grouped)
        return LayerNorm(_EPSILON, name="norm")(exact(packed))
