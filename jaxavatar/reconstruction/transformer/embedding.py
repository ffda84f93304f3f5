"""What enters the transformer: embedded points, the context, the global code."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.reconstruction.transformer.norms import LayerNorm

_OCTAVES = 8
_EPSILON = 1e-5


def fourier(points: Float[Array, "*N 3"]) -> Float[Array, "*N 48"]:
    """Return sines, then cosines of pi 2^k x: eight octaves of x, then of y, then of z."""
    # Rounded to float32 in any type, as they were in training.
    frequencies = jnp.asarray(np.float32(np.pi * 2.0 ** np.arange(_OCTAVES)), points.dtype)
    angles = (points[..., None] * frequencies).reshape(*points.shape[:-1], 3 * _OCTAVES)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class PointEmbedding(nn.Module):
    """Query tokens for points on the template, metres in the canonical pose."""

    width: int

    @nn.compact
    def __call__(self, points: Float[Array, "B N 3"]) -> Float[Array, "B N d"]:
        """Embed every point; the products are exact, since the finest octave needs the digits."""
        features = jnp.concatenate([fourier(points), points], axis=-1)
        dense = nn.Dense(self.width, precision="highest", name="linear")
        return LayerNorm(_EPSILON, name="norm")(dense(features))


class GlobalCode(nn.Module):
    """The vector that modulates every block: a network on the mean of the photo's tokens."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, body: Float[Array, "B m c"]) -> Float[Array, "B two_d"]:
        """Return the body's code, then the head's, `width` numbers each."""
        hidden = nn.Dense(body.shape[-1] // 2, dtype=self.dtype, name="in")(body.mean(1))
        return nn.Dense(2 * self.width, dtype=self.dtype, name="out")(nn.silu(hidden))


def merge(body: Float[Array, "B m c"], head: Float[Array, "B k e"]) -> Float[Array, "B m_k c"]:
    """Append the head's tokens to the body's; zeros fill up their channels.

    Raises:
        ValueError: head tokens are wider than body tokens.
    """
    missing = body.shape[-1] - head.shape[-1]
    if missing < 0:
        raise ValueError(
            f"head tokens have {head.shape[-1]} channels, body tokens {body.shape[-1]}"
        )
    return jnp.concatenate([body, jnp.pad(head, ((0, 0), (0, 0), (0, missing)))], axis=1)
