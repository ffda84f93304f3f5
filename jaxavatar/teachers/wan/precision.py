"""What is computed in which type."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Precision = Literal["inherit", "bfloat16"]
"""Follow inputs and parameters, or round the inputs of matrix products and convolutions."""


def rounded(precision: Precision) -> jnp.dtype | None:
    """Return the type of matrix products' inputs; None follows inputs and parameters."""
    return jnp.dtype(jnp.bfloat16) if precision == "bfloat16" else None


def exact(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Return `x` in float32, or in its own type if that is better."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
