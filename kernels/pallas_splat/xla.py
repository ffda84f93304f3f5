"""Backend "xla": tiles, in plain XLA, on any device and in float32 or float64.

Projection is differentiated by JAX. Compositing has its own gradient; its tangents are JAX's own,
with the lists held constant, so that both modes of differentiation and second derivatives (forward
over reverse) work. Mapped over cameras or scenes, lists and composites are made for one after the
other, as each of them fills the device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from pallas_splat.binning import Bins, Grid, bin_gaussians, tile_boxes
from pallas_splat.binning import count as count_boxes
from pallas_splat.compositing import composite_tiles, composite_tiles_vjp, median_tiles
from pallas_splat.config import Config
from pallas_splat.linear import two_way
from pallas_splat.project import project, shape_rows
from pallas_splat.sequential import one_by_one
from pallas_splat.structs import Composite, Info, Projected

__all__ = ["composite", "median", "project"]

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
            its derivatives are NaN. Capacity None stands for a few tiles per Gaussian.

    Returns:
        The composited attributes.
    """
    table = jnp.concatenate([shape_rows(projected), values, jnp.ones_like(values[:, :1])], axis=1)
    sizes = _sizes(projected, width, height, config)
    bins = _bins(projected, sizes)
    image = _to_image(_composite(sizes, table, bins), sizes.grid)
    return Composite(
        values=image[..., :-1],
        alpha=image[..., -1],
        info=Info(bins.total, jnp.full_like(bins.total, sizes.capacity), bins.overflow),
    )


def median(projected: Projected, width: int, height: int, config: Config) -> Int[Array, "H W"]:
    """Find the Gaussian that takes each pixel's transmittance to one half or below, or -1.

    The lists are those of `composite`, of which XLA makes only one copy. Where they do not fit,
    the result means nothing.
    """
    sizes = _sizes(projected, width, height, config)

    @one_by_one
    def find(table, bins):
        return median_tiles(_with_blank(table), bins, sizes.grid, config)

    tiles = find(lax.stop_gradient(shape_rows(projected)), _bins(projected, sizes))
    return _to_image(tiles[:, None], sizes.grid)[..., 0]


def count(projected: Projected, width: int, height: int, config: Config) -> Int[Array, ""]:
    """Count the list entries that a view needs; 2^31 - 1 stands for "2^30 or more"."""
    return count_boxes(tile_boxes(projected, Grid(width, height, config.tile)))


def _sizes(projected: Projected, width: int, height: int, config: Config) -> _Sizes:
    room = max(_TILES_PER_GAUSSIAN * len(projected.x), _CAPACITY_MIN)
    return _Sizes(Grid(width, height, config.tile), config.capacity or room, config)


def _bins(projected: Projected, sizes: _Sizes) -> Bins:
    @one_by_one
    def make(projected):
        return bin_gaussians(projected, sizes.grid, sizes.capacity)

    return make(lax.stop_gradient(projected))


def _forward(sizes: _Sizes, table, bins: Bins):
    @one_by_one
    def forward(table, bins):
        tiles = composite_tiles(_with_blank(table), bins, sizes.grid, sizes.config)
        return tiles * _poison(bins, table.dtype)

    tiles = forward(table, bins)
    return tiles, (table, bins, tiles)


def _tangent(sizes: _Sizes, residuals, table_tangent):
    @one_by_one
    def tangent(table, bins, table_tangent):
        def tiles(table):
            return composite_tiles(_with_blank(table), bins, sizes.grid, sizes.config)

        return jax.jvp(tiles, (table,), (table_tangent,))[1] * _poison(bins, table.dtype)

    table, bins, _ = residuals
    return tangent(table, bins, table_tangent)


def _cotangent(sizes: _Sizes, residuals, tiles_grad):
    @one_by_one
    def cotangent(table, bins, tiles, tiles_grad):
        grad = composite_tiles_vjp(
            _with_blank(table), bins, tiles, tiles_grad, sizes.grid, sizes.config
        )
        return grad[:-1] * _poison(bins, table.dtype)

    return cotangent(*residuals, tiles_grad)


_composite = two_way(_forward, _tangent, _cotangent)


def _poison(bins: Bins, dtype) -> Array:
    """NaN where the lists are incomplete, else one."""
    return jnp.where(bins.overflow, jnp.nan, 1).astype(dtype)


def _with_blank(table):
    """Append the invisible row that stands in past the end of a list."""
    return jnp.pad(table, ((0, 1), (0, 0)))


def _to_image(tiles: Shaped[Array, "tiles D P"], grid: Grid) -> Shaped[Array, "H W D"]:
    side = grid.tile
    image = tiles.reshape(grid.rows, grid.columns, -1, side, side).transpose(0, 3, 1, 4, 2)
    image = image.reshape(grid.rows * side, grid.columns * side, tiles.shape[1])
    return image[: grid.height, : grid.width]
