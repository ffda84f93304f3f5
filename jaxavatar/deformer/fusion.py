"""Gated fusion of speech and text into driving tokens (paper, sec. 3.2).

A~_t = PE(t) ++ A_t,  gamma_t = sigmoid(MLP(A~_t)),
D_t = gamma_t Proj_a(A~)_t + (1 - gamma_t) Pool(Proj_z(Z)).

Proj_a sees `reach` frames to either side, because lips anticipate the sound: the mouth closes
before a "p" is heard. It is written as a product of stacked neighbours, not as a convolution.
Frames outside the clip are zeros.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxavatar.deformer.config import DriverConfig
from jaxavatar.deformer.window import Window


def positional_encoding(
    time: Int[Array, " T"], periods: tuple[int, ...]
) -> Float[Array, "T two_periods"]:
    """Return sine and cosine of the time at a few fixed periods.

    Args:
        time: frame numbers of any size.
        periods: frames. The encoding repeats after their least common multiple: it is a clock
            for idle motion (breath, blinks), and clips start at any time of it.
    """
    # The remainder keeps the argument small, so hours into a clip it is as exact as at its start.
    phase = (time[:, None] % jnp.array(periods)) / jnp.array(periods, float) * (2 * jnp.pi)
    return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


def masked_mean(tokens: Float[Array, "S L d"], mask: Bool[Array, "S L"]) -> Float[Array, "S d"]:
    """Average the tokens of each segment that exist; a segment without any gives zeros."""
    kept = jnp.where(mask[..., None], tokens, 0.0)
    return kept.sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)[:, None]


def neighbours(signal: Float[Array, "T_halo d"], reach: int) -> Float[Array, "T w_d"]:
    """Concatenate to each frame its `reach` neighbours on either side; the ends are consumed."""
    frames = signal.shape[0] - 2 * reach
    return jnp.concatenate([signal[k : k + frames] for k in range(2 * reach + 1)], axis=-1)


class GatedFusion(nn.Module):
    """Fuse a window's speech and text into one driving token per frame."""

    config: DriverConfig

    @nn.compact
    def __call__(self, window: Window) -> Float[Array, "T_tokens d"]:
        """Return D of all frames but the outermost `reach` on either side."""
        reach, width = self.config.reach, self.config.width
        drive = window.drive
        encoding = positional_encoding(drive.time, self.config.periods)
        speech = jnp.concatenate([encoding, nn.LayerNorm(name="audio_norm")(drive.audio)], axis=-1)

        hidden = nn.Dense(width, name="audio_in")(speech)
        hidden = jnp.where(window.valid[:, None], nn.gelu(hidden), 0.0)
        audio = nn.Dense(width, name="audio_out")(neighbours(hidden, reach))

        centre = slice(reach, speech.shape[0] - reach)
        gate = nn.gelu(nn.Dense(width // 4, name="gate_in")(speech[centre]))
        gate = nn.sigmoid(nn.Dense(1, name="gate_out")(gate))

        tokens = nn.Dense(width, name="text")(nn.LayerNorm(name="text_norm")(drive.text))
        text = masked_mean(tokens, drive.text_mask)[drive.segment[centre]]
        return gate * audio + (1 - gate) * text
