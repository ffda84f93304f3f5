"""Backend "xla": tiles, in plain XLA, on any device and in float32 or float64.

Projection is differentiated by JAX; listing and compositing form one primitive with its own VJP,
so forward-mode differentiation and second derivatives are for backend "reference". Mapped over
cameras or scenes, the primitive runs for one after the other, as each of them fills the device.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float

from pallas_splat.binning import Bins, Grid, bin_gaussians
from pallas_splat.compositing import composite_tiles, composite_tiles_vjp
from pallas_splat.config import Config
from pallas_splat.project import project, shape_rows
from pallas_splat.structs import Composite, Info, Projected

__all__ = ["composite", "project"]

_TILES_PER_GAUSSIAN = 8
_CAPACITY_MIN = 4096


class _Sizes(NamedTuple):
    """What is static about a call."""

    grid: Grid
    capacity: int
    config: Config


def composite(
    projected: Projected, values: Float[Array, "N D"], width: int, height: int, config: Config
) -> Composite:
    """Composite Gaussians tile by tile, front to back.

    Args:
        projected: 2D Gaussians, at least one.
        values: what to composite.
        width: of the image, pixels.
        height: of the image, pixels.
        config: sizes. Where more than `capacity` list entries are needed, the result and all
            gradients are NaN. Capacity None stands for a few tiles per Gaussian.

    Returns:
        The composited attributes.
    """
    table = jnp.concatenate([shape_rows(projected), values, jnp.ones_like(values[:, :1])], axis=1)
    grid = Grid(width, height, config.tile)
    capacity = config.capacity or max(_TILES_PER_GAUSSIAN * len(table), _CAPACITY_MIN)
    sizes = _Sizes(grid, capacity, config)
    rasterized: Any = _rasterize(table, lax.stop_gradient(projected), sizes)
    out, info = rasterized
    return Composite(out[..., :-1], out[..., -1], info)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rasterize(
    table: Float[Array, "N R"], projected: Projected, sizes: _Sizes
) -> tuple[Float[Array, "H W D"], Info]:
    """List and composite. Only the table's gradient is defined; `projected` steers the lists."""
    return _rasterize_fwd(table, projected, sizes)[0]


def _rasterize_fwd(table, projected, sizes):
    tiles, bins = _forward(sizes)(table, projected)
    info = Info(bins.total, jnp.full_like(bins.total, sizes.capacity), bins.overflow)
    return (_to_image(tiles, sizes.grid), info), (table, projected, bins, tiles)


def _rasterize_bwd(sizes, residuals, cotangents):
    table, projected, bins, tiles = residuals
    tiles_grad = _to_tiles(cotangents[0], sizes.grid)
    table_grad = _backward(sizes)(table, bins, tiles, tiles_grad)
    return table_grad, jax.tree.map(jnp.zeros_like, projected)


_rasterize.defvjp(_rasterize_fwd, _rasterize_bwd)


def _forward(sizes: _Sizes):
    @sequential_vmap
    def forward(table, projected):
        bins = bin_gaussians(projected, sizes.grid, sizes.capacity)
        tiles = composite_tiles(_with_blank(table), bins, sizes.grid, sizes.config)
        return tiles * _poison(bins, table.dtype), bins

    return forward


def _backward(sizes: _Sizes):
    @sequential_vmap
    def backward(table, bins: Bins, tiles, tiles_grad):
        grad = composite_tiles_vjp(
            _with_blank(table), bins, tiles, tiles_grad, sizes.grid, sizes.config
        )
        return grad[:-1] * _poison(bins, table.dtype)

    return backward


def _poison(bins: Bins, dtype) -> Array:
    """NaN where the lists are incomplete, else one."""
    return jnp.where(bins.overflow, jnp.nan, 1).astype(dtype)


def _with_blank(table):
    """Append the invisible row that stands in past the end of a list."""
    return jnp.pad(table, ((0, 1), (0, 0)))


def _to_image(tiles: Float[Array, "tiles D P"], grid: Grid) -> Float[Array, "H W D"]:
    side = grid.tile
    image = tiles.reshape(grid.rows, grid.columns, -1, side, side).transpose(0, 3, 1, 4, 2)
    image = image.reshape(grid.rows * side, grid.columns * side, tiles.shape[1])
    return image[: grid.height, : grid.width]


def _to_tiles(image: Float[Array, "H W D"], grid: Grid) -> Float[Array, "tiles D P"]:
    side = grid.tile
    bottom, right = grid.rows * side - grid.height, grid.columns * side - grid.width
    image = jnp.pad(image, ((0, bottom), (0, right), (0, 0)))
    tiles = image.reshape(grid.rows, side, grid.columns, side, -1).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(grid.tiles, image.shape[-1], side * side)
