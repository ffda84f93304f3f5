"""Whisper's encoder and decoder (Radford et al., 2023) in Flax Linen.

Batch axes lead everywhere (`*B`). The decoder always runs on a cache of keys and values: one call
with n tokens at position 0 is teacher forcing, calls with one token at a time are generation, and
both are the same code.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_EPSILON = 1e-5
Heads = Float[Array, "*B n heads d"]
Cache = tuple[tuple[Heads, Heads], ...]  # keys and values per layer


@dataclasses.dataclass(frozen=True)
class WhisperConfig:
    """Sizes of a Whisper model; the defaults are those of tiny.en."""

    mels: int = 80
    width: int = 384
    heads: int = 6
    encoder_layers: int = 4
    decoder_layers: int = 4
    vocabulary: int = 51864
    audio_positions: int = 1500
    text_positions: int = 448


def _size(width: int, layers: int, **others: int) -> WhisperConfig:
    sizes = {"decoder_layers": layers, "vocabulary": 51865} | others
    return WhisperConfig(width=width, heads=width // 64, encoder_layers=layers, **sizes)


CONFIGS: dict[str, WhisperConfig] = {
    "tiny": _size(384, 4),
    "base": _size(512, 6),
    "small": _size(768, 12),
    "medium": _size(1024, 24),
    "large": _size(1280, 32),
    "large-v3": _size(1280, 32, mels=128, vocabulary=51866),
    "large-v3-turbo": _size(1280, 32, mels=128, vocabulary=51866, decoder_layers=4),
}
CONFIGS |= {
    f"{name}.en": dataclasses.replace(CONFIGS[name], vocabulary=51864)
    for name in ("tiny", "base", "small", "medium")
}
"""Released sizes; large-v2 is "large"."""


class Attention(nn.Module):
    """Multi-head attention whose keys and values are computed apart, so that they can be kept.

    Keys have no bias: it would add one number to all scores of a query, which softmax ignores.
    """

    width: int
    heads: int

    def setup(self) -> None:
        """Create the layers."""
        self.query = nn.Dense(self.width)
        self.key = nn.Dense(self.width, use_bias=False)
        self.value = nn.Dense(self.width)
        self.out = nn.Dense(self.width)

    def _split(self, x: Float[Array, "*B n d"]) -> Heads:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def remember(self, x: Float[Array, "*B n d"]) -> tuple[Heads, Heads]:
        """Return the keys and values of `x`."""
        return self._split(self.key(x)), self._split(self.value(x))

    def __call__(
        self, x: Float[Array, "*B n d"], keys: Heads, values: Heads, mask: Array | None = None
    ) -> Float[Array, "*B n d"]:
        """Attend from `x`; `mask` [n, m] or [*B, 1, 1, m] is True where it may attend."""
        attended = nn.dot_product_attention(self._split(self.query(x)), keys, values, mask=mask)
        return self.out(attended.reshape(x.shape))


class FeedForward(nn.Module):
    """The two-layer network of a transformer block, with its layer norm."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "*B n d"]) -> Float[Array, "*B n d"]:
        """Return the residual to add to `x`."""
        hidden = nn.Dense(4 * self.width, name="up")(nn.LayerNorm(_EPSILON, name="norm")(x))
        return nn.Dense(self.width, name="down")(nn.gelu(hidden, approximate=False))


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, pre-norm."""

    config: WhisperConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B n d"]) -> Float[Array, "*B n d"]:
        """Return the next residual stream."""
        attention = Attention(self.config.width, self.config.heads, name="attention")
        normed = nn.LayerNorm(_EPSILON, name="attention_norm")(x)
        x = x + attention(normed, *attention.remember(normed))
        return x + FeedForward(self.config.width, name="feed_forward")(x)


class Encoder(nn.Module):
    """The audio encoder: log-mel frames to states at half their rate."""

    config: WhisperConfig

    @nn.compact
    def __call__(self, mel: Float[Array, "*B F M"]) -> tuple[Float[Array, "*B n d"], ...]:
        """Encode log-mel frames.

        Args:
            mel: F <= 2 * `audio_positions` frames of 10 ms, as `mel.whisper_log_mel` makes them.

        Returns:
            The residual stream before the first block and after each block, n = ceil(F / 2) states
            of 20 ms; the last one is normalised, it is what the decoder reads. Under `jit`, what
            the caller does not use is not computed.
        """
        width = self.config.width
        x = nn.gelu(nn.Conv(width, (3,), padding=1, name="conv1")(mel), approximate=False)
        x = nn.Conv(width, (3,), strides=2, padding=1, name="conv2")(x)
        places = self.param(
            "positions", nn.initializers.normal(0.02), (self.config.audio_positions, width)
        )
        x = nn.gelu(x, approximate=False) + places[: x.shape[-2]]
        states = [x]
        for layer in range(self.config.encoder_layers):
            states.append(EncoderBlock(self.config, name=f"block{layer}")(states[-1]))
        return *states[:-1], nn.LayerNorm(_EPSILON, name="norm")(states[-1])


class DecoderBlock(nn.Module):
    """Causal self-attention over a cache, cross-attention to the sound, feed-forward."""

    config: WhisperConfig

    def setup(self) -> None:
        """Create the layers."""
        self.attention_norm = nn.LayerNorm(_EPSILON)
        self.attention = Attention(self.config.width, self.config.heads)
        self.cross_norm = nn.LayerNorm(_EPSILON)
        self.cross = Attention(self.config.width, self.config.heads)
        self.feed_forward = FeedForward(self.config.width)

    def __call__(
        self,
        x: Float[Array, "*B n d"],
        start: Int[Array, ""],
        kept: tuple[Heads, Heads],
        heard: tuple[Heads, Heads],
    ) -> tuple[Float[Array, "*B n d"], tuple[Heads, Heads]]:
        """Return the next residual stream and the cache with the n new tokens at `start`."""
        normed = self.attention_norm(x)
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=-3)
            for old, new in zip(kept, self.attention.remember(normed), strict=True)
        )
        places = start + jnp.arange(x.shape[-2])
        mask = jnp.arange(keys.shape[-3]) <= places[:, None]
        x = x + self.attention(normed, keys, values, mask)
        x = x + self.cross(self.cross_norm(x), *heard)
        return x + self.feed_forward(x), (keys, values)


class Decoder(nn.Module):
    """The text decoder; its output layer shares the token embedding."""

    config: WhisperConfig

    def setup(self) -> None:
        """Create the layers."""
        shape = (self.config.text_positions, self.config.width)
        self.embedding = nn.Embed(self.config.vocabulary, self.config.width)
        self.positions = self.param("positions", nn.initializers.normal(0.02), shape)
        self.blocks = [DecoderBlock(self.config) for _ in range(self.config.decoder_layers)]
        self.norm = nn.LayerNorm(_EPSILON)

    def hear(self, sound: Float[Array, "*B m d"]) -> Cache:
        """Return the cross-attention's keys and values for the encoder's last states."""
        return tuple(block.cross.remember(sound) for block in self.blocks)

    def silence(self, length: int, batch: tuple[int, ...] = ()) -> Cache:
        """Return an empty cache for `length` tokens."""
        width = self.config.width // self.config.heads
        empty = jnp.zeros((*batch, length, self.config.heads, width))
        return tuple((empty, empty) for _ in self.blocks)

    def __call__(
        self, tokens: Int[Array, "*B n"], start: Int[Array, ""], kept: Cache, heard: Cache
    ) -> tuple[Float[Array, "*B n d"], Cache]:
        """Read n tokens that stand at the positions `start` and after.

        Args:
            tokens: vocabulary indices.
            start: position of the first one.
            kept: the cache of all positions, filled below `start`.
            heard: what `hear` returned.

        Returns:
            The final hidden states and the cache with the new tokens.
        """
        places = jax.lax.dynamic_slice_in_dim(self.positions, start, tokens.shape[-1])
        x = self.embedding(tokens) + places
        caches = []
        for block, own, sound in zip(self.blocks, kept, heard, strict=True):
            x, cache = block(x, start, own, sound)
            caches.append(cache)
        return self.norm(x), tuple(caches)

    def logits(self, states: Float[Array, "*B n d"]) -> Float[Array, "*B n vocabulary"]:
        """Return the scores of the next token after each state."""
        return self.embedding.attend(states)
