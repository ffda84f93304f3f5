"""Layers of the causal video autoencoder: no output depends on later frames.

Layers that look back keep what the next frames need in the collection "past": applied to a clip
piece by piece, with the collection passed from piece to piece, they compute exactly what they
compute for the whole. The first piece begins with no such collection.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.reconstruction.transformer.attention import attend
from jaxavatar.teachers.wan.precision import exact

Video = Float[Array, "B T H W c"]

_SMALLEST = 1e-24  # square of PyTorch's smallest norm


class CausalConv(nn.Module):
    """A 3 x 3 x 3 convolution over the current and the two frames before; zeros before the first.

    Attributes:
        channels: of the output.
        side: of the kernel in space: 3, or 1.
        dtype: of the inputs.
    """

    channels: int
    side: int = 3
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Video) -> Video:
        """Return as many frames as came."""
        before = self.variable("past", "frames", jnp.zeros, _past_shape(x, 2), x.dtype)
        seen = jnp.concatenate([before.value, x], axis=1)
        before.value = seen[:, -2:]
        edge = self.side // 2
        padding = ((0, 0), (edge, edge), (edge, edge))
        kernel = (3, self.side, self.side)
        return nn.Conv(self.channels, kernel, padding=padding, dtype=self.dtype, name="conv")(seen)


class PixelNorm(nn.Module):
    """Division of every pixel's channels by their root mean square, with a learned scale.

    Attributes:
        activate: apply SiLU to the result.
    """

    activate: bool = False

    @nn.compact
    def __call__(self, x: Video) -> Video:
        """Normalise the channels."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        squares = jnp.square(exact(x)).sum(-1, keepdims=True)
        size = jnp.sqrt(jnp.maximum(squares, _SMALLEST) / x.shape[-1])
        normed = exact(x) / size * scale
        return (nn.silu(normed) if self.activate else normed).astype(x.dtype)


# A backward pass computes it again: what it would keep is several times its input.
ActivatedNorm = nn.remat(PixelNorm)


class ResidualBlock(nn.Module):
    """Two causal convolutions beside a shortcut.

    Attributes:
        channels: of the output.
        dtype: of the convolutions' inputs.
    """

    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Video) -> Video:
        """Return as many frames as came."""
        shortcut = x
        if x.shape[-1] != self.channels:
            shortcut = nn.Dense(self.channels, dtype=self.dtype, name="shortcut")(x)
        for layer in (1, 2):
            x = ActivatedNorm(True, name=f"norm{layer}")(x)
            x = CausalConv(self.channels, dtype=self.dtype, name=f"conv{layer}")(x)
        return x + shortcut


class FrameAttention(nn.Module):
    """One head of attention among the pixels of each frame, added to them."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Video) -> Video:
        """Return as many frames as came."""
        batch, frames, height, width, channels = x.shape
        normed = PixelNorm(name="norm")(x).reshape(batch * frames, height * width, channels)
        together = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(normed)
        queries, keys, values = (part[:, :, None] for part in jnp.split(together, 3, axis=-1))
        mixed = attend(queries, keys, values, "dense")[:, :, 0]
        return x + nn.Dense(channels, dtype=self.dtype, name="out")(mixed).reshape(x.shape)


class Downsample(nn.Module):
    """Halve height and width, and on request time: the clip's first frame stands for itself.

    Attributes:
        halve_time: whether 2 k frames become k, and 2 k + 1 at the clip's beginning k + 1.
        dtype: of the convolutions' inputs.
    """

    halve_time: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Video) -> Video:
        """Return smaller frames."""
        channels, dtype = x.shape[-1], self.dtype
        padding = ((0, 1), (0, 1))
        x = nn.Conv(channels, (3, 3), (2, 2), padding=padding, dtype=dtype, name="space")(x)
        if not self.halve_time:
            return x
        begins = not self.has_variable("past", "frame")
        before = self.variable("past", "frame", jnp.zeros, _past_shape(x, 1), x.dtype)
        seen = x if begins else jnp.concatenate([before.value, x], axis=1)
        before.value = x[:, -1:]
        kernel, stride = (3, 1, 1), (2, 1, 1)
        halved = nn.Conv(channels, kernel, stride, padding="VALID", dtype=dtype, name="time")(seen)
        return jnp.concatenate([x[:, :1], halved], axis=1) if begins else halved


class Upsample(nn.Module):
    """Double height and width, halve the channels, and on request double time.

    Attributes:
        double_time: whether k frames become 2 k; the clip's first frame stays single.
        dtype: of the convolutions' inputs.
    """

    double_time: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Video) -> Video:
        """Return larger frames."""
        channels, dtype = x.shape[-1], self.dtype
        if self.double_time:
            begins = not self.has_variable("past", "begun")
            self.variable("past", "begun", jnp.ones, x.shape[:1])
            later = x[:, 1:] if begins else x
            # The first frame counts as nothing for those after it, not even as the past.
            pairs = CausalConv(2 * channels, 1, dtype, name="time")(later)
            pairs = pairs.reshape(*later.shape[:-1], 2, channels)
            doubled = jnp.moveaxis(pairs, -2, 2).reshape(later.shape[0], -1, *later.shape[2:])
            x = jnp.concatenate([x[:, :1], doubled], axis=1) if begins else doubled
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        return nn.Conv(channels // 2, (3, 3), padding=1, dtype=dtype, name="space")(x)


def _past_shape(x: Video, frames: int) -> tuple[int, ...]:
    return (x.shape[0], frames, *x.shape[2:])
