"""Normalisations: plain, root-mean-square, and modulated by a code (adaptive, AdaLN).

All are computed in float32 or better. The variance is the mean of squared differences: the
difference of two means would lose the digits of tokens that barely vary.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6


def normalise(x: Float[Array, "*B d"], epsilon: float = EPSILON) -> Float[Array, "*B d"]:
    """Return `x` with mean 0 and variance 1 along the last axis."""
    exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = exact - exact.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype)


def modulate(
    x: Float[Array, "B n d"], shift: Float[Array, "B d"], scale: Float[Array, "B d"]
) -> Float[Array, "B n d"]:
    """Return (1 + scale) x + shift, the same for every token."""
    return x * (1 + scale[:, None]) + shift[:, None]


class LayerNorm(nn.Module):
    """Layer normalisation with learned scale and bias."""

    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
        """Normalise the last axis."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return normalise(x, self.epsilon) * scale + bias


class RMSNorm(nn.Module):
    """Division by the root of the mean square, with a learned scale (Zhang and Sennrich, 2019)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
        """Normalise the last axis."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = jnp.square(exact).mean(-1, keepdims=True)
        return (exact * jax.lax.rsqrt(mean + EPSILON) * scale).astype(x.dtype)


class Modulation(nn.Module):
    """Vectors that modulate a block, all from one code: a linear layer on SiLU(code)."""

    parts: int
    dtype: Any = None

    @nn.compact
    def __call__(self, code: Float[Array, "B d"]) -> list[Float[Array, "B d"]]:
        """Return `parts` vectors of the code's width."""
        dense = nn.Dense(self.parts * code.shape[-1], dtype=self.dtype, name="linear")
        return jnp.split(dense(nn.silu(code)), self.parts, axis=-1)
