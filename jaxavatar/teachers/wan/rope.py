"""Rotary positions along time, height and width (Su et al., 2021; Wan's split of a head)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

THETA = 10_000.0


def split(width: int) -> tuple[int, int, int]:
    """Return how many of a head's numbers turn with time, height and width."""
    side = 2 * (width // 6)
    return width - 2 * side, side, side


def rotations(
    grid: tuple[int, int, int], width: int
) -> tuple[Float[Array, "n half"], Float[Array, "n half"]]:
    """Return cosine and sine for every token of a grid, in its order.

    Args:
        grid: frames, rows, columns of tokens.
        width: of a head, even.
    """
    tables = []
    for axis, (count, part) in enumerate(zip(grid, split(width), strict=True)):
        # In float64: positions times frequencies lose digits in float32.
        angles = np.outer(np.arange(count), THETA ** (-np.arange(0, part, 2) / part))
        shape = [1, 1, 1, part // 2]
        shape[axis] = count
        tables.append((np.cos(angles).reshape(shape), np.sin(angles).reshape(shape)))
    cosines, sines = (
        jnp.concatenate(
            [jnp.broadcast_to(jnp.asarray(table), (*grid, table.shape[-1])) for table in part],
            axis=-1,
        ).reshape(-1, width // 2)
        for part in zip(*tables, strict=True)
    )
    return cosines, sines


def rotate(
    x: Float[Array, "B n h d"], cosines: Float[Array, "n half"], sines: Float[Array, "n half"]
) -> Float[Array, "B n h d"]:
    """Turn each pair of neighbouring numbers of every head by its token's angle."""
    exact = jnp.promote_types(x.dtype, jnp.float32)
    even, odd = (x[..., start::2].astype(exact) for start in (0, 1))
    cosines, sines = (part[:, None].astype(exact) for part in (cosines, sines))
    turned = jnp.stack([even * cosines - odd * sines, even * sines + odd * cosines], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
