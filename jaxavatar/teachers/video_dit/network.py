"""A diffusion transformer for talking clips, with attention factorised into space and time.

After Peebles and Xie (DiT, ICCV 2023): the noise level modulates every block. The speech does
so too, frame by frame, and is also attended to: measured on two CPU cores, modulation is what
makes a small network listen, cross-attention alone learned nothing in the same time.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.teachers.video_dit.config import VideoDiTConfig
from jaxavatar.teachers.video_dit.ears import Ears, cast

_NOISE_OCTAVES = 64


def fourier(values: Float[Array, "*B"], count: int, longest: float) -> Float[Array, "*B two_n"]:
    """Return sine and cosine of values at `count` geometric frequencies from 1 down."""
    frequencies = jnp.exp(-np.log(longest) * jnp.arange(count) / count)
    angles = values[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B N d"], context: Float[Array, "B M d"] | None = None
    ) -> Float[Array, "B N d"]:
        """Attend to the context, or to the tokens themselves."""
        width = tokens.shape[-1]
        context = tokens if context is None else context

        def heads(name: str, source: Array) -> Array:
            split = (self.heads, width // self.heads)
            return nn.DenseGeneral(split, dtype=self.dtype, name=name)(source)

        queries = nn.RMSNorm(dtype=self.dtype, name="query_norm")(heads("query", tokens))
        keys = nn.RMSNorm(dtype=self.dtype, name="key_norm")(heads("key", context))
        mixed = jax.nn.dot_product_attention(queries, keys, heads("value", context))
        return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")(mixed)


class Block(nn.Module):
    """Attention over space, over time, to the speech, and a perceptron; all residual."""

    config: VideoDiTConfig

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B T N d"],
        modulation: Float[Array, "B T d"],
        speech: Float[Array, "B T w d"],
    ) -> Float[Array, "B T N d"]:
        """Return the tokens after the block."""
        config, dtype = self.config, self.config.dtype
        batch, frames, count, width = tokens.shape
        table = nn.Dense(
            9 * width, dtype=dtype, kernel_init=nn.initializers.zeros, name="modulation"
        )(nn.silu(modulation))
        shift, scale, gate = jnp.split(table.reshape(batch, frames, 1, 9, width), 3, axis=3)

        def modulated(k: int) -> Float[Array, "B T N d"]:
            plain = nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)(tokens)
            return plain * (1 + scale[..., k, :]) + shift[..., k, :]

        spatial = modulated(0).reshape(batch * frames, count, width)
        spatial = Attention(config.heads, dtype, name="space")(spatial)
        tokens = tokens + gate[..., 0, :] * spatial.reshape(tokens.shape)

        temporal = modulated(1).swapaxes(1, 2).reshape(batch * count, frames, width)
        temporal = Attention(config.heads, dtype, name="time")(temporal)
        temporal = temporal.reshape(batch, count, frames, width).swapaxes(1, 2)
        tokens = tokens + gate[..., 1, :] * temporal

        asking = nn.LayerNorm(dtype=dtype, name="speech_norm")(tokens)
        heard = Attention(config.heads, dtype, name="speech")(
            asking.reshape(batch * frames, count, width),
            speech.reshape(batch * frames, -1, width),
        )
        tokens = tokens + heard.reshape(tokens.shape)

        hidden = nn.gelu(nn.Dense(4 * width, dtype=dtype, name="mlp_in")(modulated(2)))
        return tokens + gate[..., 2, :] * nn.Dense(width, dtype=dtype, name="mlp_out")(hidden)


class VideoDiT(nn.Module):
    """Noisy clip, noise level, speech and reference picture to the preconditioned prediction."""

    config: VideoDiTConfig

    @nn.compact
    def __call__(
        self,
        clip: Float[Array, "B T H W C"],
        tau: Float[Array, " B"],
        audio: Float[Array, "B T_context d_a"],
        heard: Float[Array, " B"],
        reference: Float[Array, "B H W C"],
    ) -> Float[Array, "B T H W C"]:
        """Return the network's output; `teacher` says what of.

        Args:
            clip: noisy latents, normalised.
            tau: noise level in [0, 1].
            audio: speech features with `config.reach` frames more on either side.
            heard: 1 where the speech is known, 0 where it is left out.
            reference: latents of a picture of the person.
        """
        config, dtype = self.config, self.config.dtype
        width = config.width
        frames, channels = clip.shape[1], clip.shape[-1]

        def dense(name: str, size: int = width) -> nn.Dense:
            return nn.Dense(size, dtype=dtype, name=name)

        tokens = dense("clip_in")(_patches(clip, config.patch))
        tokens += dense("reference_in")(_patches(reference, config.patch))[:, None]
        place = self.param("place", nn.initializers.normal(0.02), (tokens.shape[2], width))
        order = 0.3 * fourier(jnp.arange(frames, dtype=jnp.float32), width // 2, 100.0)
        tokens = cast(tokens + place + order[:, None], dtype)

        speech, summary = Ears(config, name="ears")(audio, heard, frames)
        level = fourier(1000.0 * tau, _NOISE_OCTAVES, 1e4)
        level = dense("level_out")(nn.silu(dense("level_in")(level)))
        modulation = level[:, None] + summary

        block = nn.remat(Block) if config.remat else Block
        for k in range(config.depth):
            tokens = block(config, name=f"block_{k}")(tokens, modulation, speech)

        zeros = nn.initializers.zeros
        table = nn.Dense(2 * width, dtype=dtype, kernel_init=zeros, name="last_modulation")(
            nn.silu(modulation)
        )
        shift, scale = jnp.split(table[:, :, None], 2, axis=-1)
        tokens = nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)(tokens)
        patches = nn.Dense(config.patch**2 * channels, kernel_init=zeros, name="out")(
            cast(tokens * (1 + scale) + shift, clip.dtype)
        )
        return _picture(patches, config.patch, clip.shape)


def _patches(picture: Float[Array, "*B H W C"], size: int) -> Float[Array, "*B N size2_C"]:
    *batch, height, width, channels = picture.shape
    cut = picture.reshape(*batch, height // size, size, width // size, size, channels)
    cut = jnp.moveaxis(cut, -4, -3)
    return cut.reshape(*batch, (height // size) * (width // size), size * size * channels)


def _picture(
    patches: Float[Array, "B T N size2_C"], size: int, shape: tuple[int, ...]
) -> Float[Array, "B T H W C"]:
    batch, frames, height, width, channels = shape
    cut = patches.reshape(batch, frames, height // size, width // size, size, size, channels)
    return jnp.moveaxis(cut, -3, -4).reshape(shape)
