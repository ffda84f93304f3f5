"""wav2vec 2.0 (Baevski et al., 2020) in Flax Linen: samples to hidden states of 20 ms.

Two families exist. The base model and the first large one normalise the first convolution's
channels over time ("group") and their transformer's blocks after each sum; the later large models
(LV-60, XLSR) normalise every convolution's channels ("layer") and their blocks before each layer.
State i is made of the samples [320 i, 320 i + 400).
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxavatar.speech.whisper import Attention

_CONV_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Wav2Vec2Config:
    """Sizes of a model; the defaults are those of base-960h.

    Attributes:
        conv_widths: channels of each convolution.
        conv_kernels: their lengths.
        conv_strides: their strides.
        conv_bias: whether they have biases.
        conv_norm: "group" for one norm over time after the first, "layer" for one over channels
            after each.
        width: of the transformer.
        heads: of its attention.
        layers: its blocks.
        hidden: width inside their feed-forward networks.
        pre_norm: whether blocks normalise before their layers instead of after.
        position_kernel: length of the convolution that encodes position.
        position_groups: its groups of channels.
        epsilon: of the transformer's layer norms.
    """

    conv_widths: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: Literal["group", "layer"] = "group"
    width: int = 768
    heads: int = 12
    layers: int = 12
    hidden: int = 3072
    pre_norm: bool = False
    position_kernel: int = 128
    position_groups: int = 16
    epsilon: float = 1e-5

    @property
    def hop(self) -> int:
        """Samples from one state to the next."""
        return math.prod(self.conv_strides)

    @property
    def reach(self) -> int:
        """Samples that a state is made of."""
        reach, hop = 1, 1
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            reach, hop = reach + (kernel - 1) * hop, hop * stride
        return reach


_LARGE = Wav2Vec2Config(width=1024, heads=16, layers=24, hidden=4096)
CONFIGS: dict[str, Wav2Vec2Config] = {
    "base": Wav2Vec2Config(),
    "large": _LARGE,
    "large-lv60": dataclasses.replace(_LARGE, conv_bias=True, conv_norm="layer", pre_norm=True),
}
"""Released sizes; XLSR-53's is "large-lv60"."""


@flax.struct.dataclass
class Wav2Vec2:
    """A model: parameters of `Encoder`, and the static sizes."""

    params: dict[str, Any]
    config: Wav2Vec2Config = flax.struct.field(pytree_node=False, default=Wav2Vec2Config())


class TimeNorm(nn.Module):
    """Normalise each channel over time: a group norm with one channel per group."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "*B n d"], where: Bool[Array, "*B n 1"] | None = None
    ) -> Float[Array, "*B n d"]:
        """Normalise with the mean and variance of the steps that `where` marks; default: all."""
        centred = x - x.mean(-2, keepdims=True, where=where)
        variance = jnp.square(centred).mean(-2, keepdims=True, where=where)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return centred * jax.lax.rsqrt(variance + _CONV_EPSILON) * scale + bias


class FeatureEncoder(nn.Module):
    """The convolutions from samples to features of 20 ms."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self, samples: Float[Array, "*B S"], span: Int[Array, "*B 2"] | None
    ) -> Float[Array, "*B n c"]:
        """Return n = (S - reach) // hop + 1 features; `span` as for `Encoder`."""
        config = self.config
        x = samples[..., None]
        layers = zip(config.conv_widths, config.conv_kernels, config.conv_strides, strict=True)
        for layer, (width, kernel, stride) in enumerate(layers):
            conv = nn.Conv(
                width, (kernel,), stride, "VALID", use_bias=config.conv_bias, name=f"conv{layer}"
            )
            x = conv(x)
            if config.conv_norm == "layer":
                x = nn.LayerNorm(_CONV_EPSILON, name=f"norm{layer}")(x)
            elif layer == 0:
                heard = None if span is None else _inside(span, x.shape[-2], stride, kernel)
                x = TimeNorm(name="norm0")(x, heard)
            x = nn.gelu(x, approximate=False)
        return x


class PositionalConv(nn.Module):
    """Relative position as a wide grouped convolution whose kernel has a norm per tap."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(self, x: Float[Array, "*B n d"]) -> Float[Array, "*B n d"]:
        """Return what to add to `x`."""
        width, taps, groups = x.shape[-1], self.config.position_kernel, self.config.position_groups
        shape = (taps, width // groups, width)
        direction = self.param("direction", nn.initializers.lecun_normal(), shape)
        length = self.param("length", nn.initializers.ones, (taps,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        norm = jnp.sqrt(jnp.square(direction).sum((1, 2)))
        encoded = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[-2:]),
            direction * (length / norm)[:, None, None],
            window_strides=(1,),
            padding=[(taps // 2, taps - 1 - taps // 2)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )
        return nn.gelu(encoded.reshape(x.shape) + bias, approximate=False)


class Block(nn.Module):
    """Self-attention and feed-forward, each with its norm before it or after its sum."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "*B n d"], mask: Bool[Array, "*B 1 1 n"] | None
    ) -> Float[Array, "*B n d"]:
        """Return the next residual stream; `mask` marks the steps that may be attended to."""
        config = self.config
        attention = Attention(config.width, config.heads, name="attention")
        up, down = nn.Dense(config.hidden, name="up"), nn.Dense(config.width, name="down")
        attention_norm = nn.LayerNorm(config.epsilon, name="attention_norm")
        norm = nn.LayerNorm(config.epsilon, name="norm")
        if config.pre_norm:
            normed = attention_norm(x)
            x = x + attention(normed, *attention.remember(normed), mask)
            return x + down(nn.gelu(up(norm(x)), approximate=False))
        x = attention_norm(x + attention(x, *attention.remember(x), mask))
        return norm(x + down(nn.gelu(up(x), approximate=False)))


class Encoder(nn.Module):
    """The whole model: samples to the hidden states of its transformer."""

    config: Wav2Vec2Config

    @nn.compact
    def __call__(
        self,
        samples: Float[Array, "*B S"],
        span: Int[Array, "*B 2"] | None = None,
        frames: int | None = None,
    ) -> tuple[Float[Array, "*B n d"], ...]:
        """Encode samples.

        Args:
            samples: 16 kHz, mean 0 and variance 1 where someone speaks.
            span: samples [start, end) that exist, where others are padding; default: all. States
                made of others are neither attended to nor part of any statistic, so the states of
                the span are those of its samples alone when `start` is a multiple of `hop`.
            frames: resample the features to so many linearly, first on first and last on last,
                before the transformer reads them, as talking-head models do; default: n =
                (S - reach) // hop + 1 as they come.

        Returns:
            The residual stream before the first block and after each block. With `pre_norm` the
            last one is normalised. Under `jit`, what the caller does not use is not computed.
        """
        config = self.config
        features = FeatureEncoder(config, name="features")(samples, span)
        heard = _inside(span, features.shape[-2], config.hop, config.reach)
        if frames is not None:
            features = resample(features, frames)
            heard = None if heard is None else resample(heard.astype(float), frames) > 0.999
        x = nn.LayerNorm(config.epsilon, name="projection_norm")(features)
        x = nn.Dense(config.width, name="projection")(x)
        mask = None
        if heard is not None:
            x = jnp.where(heard, x, 0)
            mask = jnp.swapaxes(heard, -1, -2)[..., None, :, :]
        x = x + PositionalConv(config, name="position")(x)
        norm = nn.LayerNorm(config.epsilon, name="norm")
        states = [x if config.pre_norm else norm(x)]
        for layer in range(config.layers):
            states.append(Block(config, name=f"block{layer}")(states[-1], mask))
        return *states[:-1], norm(states[-1]) if config.pre_norm else states[-1]


def resample(x: Float[Array, "*B n d"], frames: int) -> Float[Array, "*B frames d"]:
    """Interpolate linearly between steps; the first and the last stay where they are."""
    place = jnp.arange(frames) * ((x.shape[-2] - 1) / max(frames - 1, 1))
    # A place that rounding puts beside a whole step must not look past the end.
    low = jnp.clip(jnp.floor(place).astype(int), 0, max(x.shape[-2] - 2, 0))
    share = (place - low)[:, None].astype(x.dtype)
    high = jnp.minimum(low + 1, x.shape[-2] - 1)
    return x[..., low, :] * (1 - share) + x[..., high, :] * share


def _inside(
    span: Int[Array, "*B 2"] | None, count: int, hop: int, reach: int
) -> Bool[Array, "*B n 1"] | None:
    """Return which of `count` steps are made of samples inside the span only."""
    if span is None:
        return None
    start = jnp.arange(count) * hop
    return ((start >= span[..., :1]) & (start + reach <= span[..., 1:]))[..., None]
