"""Wan2.1's video diffusion transformer (Wan Team, 2025), with OmniAvatar's audio adapter.

Tokens are 2 x 2 patches of latents. Every block lets them attend to each other and then to the
text; the time modulates the first and the feed-forward part. The residual stream, normalisations
and modulation stay in float32 or better whatever the matrix products round to.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.reconstruction.transformer.attention import Method, attend
from jaxavatar.reconstruction.transformer.norms import LayerNorm, RMSNorm, normalise
from jaxavatar.teachers.wan.adapter import AudioPack
from jaxavatar.teachers.wan.config import TransformerConfig
from jaxavatar.teachers.wan.precision import exact
from jaxavatar.teachers.wan.rope import rotate, rotations

Tokens = Float[Array, "B n d"]
Turns = tuple[Float[Array, "n half"], Float[Array, "n half"]]


class Attention(nn.Module):
    """Attention whose queries and keys are normalised across all heads.

    Attributes:
        heads: number of heads.
        method: of `attend`.
        dtype: of the matrix products' inputs.
    """

    heads: int
    method: Method
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Tokens, source: Tokens, turns: Turns | None = None) -> Tokens:
        """Return what `x` takes from `source`; `turns` are both one's rotary positions."""
        width = x.shape[-1]

        def project(inputs: Tokens, name: str) -> Tokens:
            return nn.Dense(width, dtype=self.dtype, name=name)(inputs)

        def split(tokens: Tokens) -> Float[Array, "B n h w"]:
            return tokens.reshape(*tokens.shape[:2], self.heads, -1)

        queries = split(RMSNorm(name="query_norm")(project(x, "query")))
        keys = split(RMSNorm(name="key_norm")(project(source, "key")))
        values = split(project(source, "value"))
        if turns is not None:
            queries, keys = rotate(queries, *turns), rotate(keys, *turns)
        attended = attend(queries, keys, values, self.method)
        return project(attended.reshape(x.shape), "out")


class FeedForward(nn.Module):
    """Two layers with GELU (by tanh) between them."""

    hidden: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Apply the network to each token."""
        hidden = nn.Dense(self.hidden, dtype=self.dtype, name="up")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(nn.gelu(hidden))


class Block(nn.Module):
    """One block."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, x: Tokens, text: Float[Array, "B l d"], code: Float[Array, "B 6 d"], turns: Turns
    ) -> Tokens:
        """Return the next tokens.

        Args:
            x: tokens.
            text: text tokens, of the same width.
            code: what the time says: shift, scale and gate of attention and of feed-forward.
            turns: rotary positions.
        """
        config = self.config
        table = self.param("modulation", _modulation_init, (6, x.shape[-1]))
        shift, scale, gate, late_shift, late_scale, late_gate = jnp.split(table + code, 6, axis=1)

        def attention(name: str) -> Attention:
            return Attention(config.heads, config.attention, config.dtype, name=name)

        inputs = normalise(x) * (1 + scale) + shift
        x = _add(x, gate * attention("self_attention")(inputs, inputs, turns))
        inputs = LayerNorm(name="cross_norm")(x)
        x = _add(x, attention("cross_attention")(inputs, text))
        inputs = normalise(x) * (1 + late_scale) + late_shift
        change = FeedForward(config.feed_forward, config.dtype, name="feed_forward")(inputs)
        return _add(x, late_gate * change)


class WanTransformer(nn.Module):
    """Velocity of latents; parameters from `init`, or from `load`."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "B F H W c"],
        time: Float[Array, " B"],
        text: Float[Array, "B l e"],
        audio: Float[Array, "B T a"] | None = None,
    ) -> Float[Array, "B F H W z"]:
        """Predict dz/dtau.

        Args:
            latents: noisy latents and what else the model sees; sides are multiples of the patch.
            time: 1000 tau.
            text: embeddings, zeros after the last token.
            audio: features of 4 (F - 1) + 1 frames, when the model has the adapter.

        Raises:
            ValueError: there is audio without an adapter, or an adapter without audio.
        """
        config = self.config
        if (audio is None) != (config.audio is None):
            raise ValueError("audio features and the adapter go together; one is missing")
        _, frames, height, width, _ = latents.shape
        patch = (1, config.patch, config.patch)
        grid = (frames, height // config.patch, width // config.patch)
        embedded = nn.Conv(
            config.width, patch, patch, padding="VALID", dtype=config.dtype, name="patches"
        )(latents)
        x = exact(embedded).reshape(latents.shape[0], -1, config.width)

        code, six = TimeEmbedding(config, name="time")(time)
        hidden = nn.gelu(nn.Dense(config.width, dtype=config.dtype, name="text_in")(text))
        words = nn.Dense(config.width, dtype=config.dtype, name="text_out")(hidden)
        heard = None
        if config.audio is not None and audio is not None:
            heard = AudioPack(config.audio, config.dtype, name="audio")(audio)

        turns = rotations(grid, config.width // config.heads)
        block = nn.remat(Block) if config.remat else Block
        for layer in range(config.layers):
            if heard is not None and layer in config.heard:
                added = nn.Dense(config.width, dtype=config.dtype, name=f"audio{layer}")(heard)
                x = _add(x, jnp.repeat(added, grid[1] * grid[2], axis=1))
            x = block(config, name=f"block{layer}")(x, words, six, turns)

        table = self.param("modulation", _modulation_init, (2, config.width))
        shift, scale = jnp.split(table + code[:, None], 2, axis=1)
        outputs = normalise(x) * (1 + scale) + shift
        pixels = config.patch**2 * config.out_channels
        outputs = exact(nn.Dense(pixels, dtype=config.dtype, name="out")(outputs))
        cells = outputs.reshape(-1, *grid, config.patch, config.patch, config.out_channels)
        return cells.swapaxes(3, 4).reshape(-1, frames, height, width, config.out_channels)


class TimeEmbedding(nn.Module):
    """The time as a vector, and as six that modulate blocks; in float32 or better."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, time: Float[Array, " B"]
    ) -> tuple[Float[Array, "B d"], Float[Array, "B 6 d"]]:
        """Return the code for the head, and that for the blocks."""
        half, width = self.config.frequencies // 2, self.config.width
        angles = exact(time)[:, None] * (10_000.0 ** (-np.arange(half) / half))
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        code = nn.Dense(width, name="out")(nn.silu(nn.Dense(width, name="in")(waves)))
        six = nn.Dense(6 * width, name="blocks")(nn.silu(code))
        return code, six.reshape(-1, 6, width)


def _modulation_init(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "k d"]:
    return jax.random.normal(key, shape) * shape[-1] ** -0.5


def _add(x: Tokens, change: Tokens) -> Tokens:
    """Keep the residual stream in its own, better type."""
    return x + change.astype(x.dtype)
