"""The kernels that composite, in values and in tangents, and the one that finds the median."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_splat.binning import Grid
from pallas_splat.pallas import tile as tiles
from pallas_splat.pallas.call import call, float32
from pallas_splat.pallas.lists import Lists
from pallas_splat.pallas.tile import CHUNK, SHAPE_COLUMNS, Row, Tile


def composite_tiles(
    table: Float[Array, "groups N R"], lists: Lists, grid: Grid, channels: int
) -> Float[Array, "groups C H_padded W_padded"]:
    """Composite the attributes of a table's rows.

    Args:
        table: rows as in `tile`.
        lists: of each tile.
        grid: the tiles.
        channels: number of attributes in a row (static).

    Returns:
        For each group the weighted sums of its attributes and, as last channel, of one; in whole
        tiles.
    """
    return _composite(_composite_kernel, (table,), lists, grid, channels)


def composite_tiles_jvp(
    table: Float[Array, "groups N R"],
    table_tangent: Float[Array, "groups N R"],
    lists: Lists,
    grid: Grid,
    channels: int,
) -> Float[Array, "groups C H_padded W_padded"]:
    """Compute the tangent of `composite_tiles` for a tangent of its table."""
    return _composite(_tangent_kernel, (table, table_tangent), lists, grid, channels)


def median_tiles(
    table: Float[Array, "1 N R"], lists: Lists, grid: Grid
) -> Int[Array, "H_padded W_padded"]:
    """Find the Gaussian that takes each pixel's transmittance to one half or below, or -1."""
    (median,) = call(
        functools.partial(_median_kernel, grid=grid),
        [jax.ShapeDtypeStruct(padded_size(grid), jnp.int32)],
        lists.ids,
        lists.starts,
        table,
        grid=(grid.tiles, 1),
        warps=warps(grid),
    )
    return median


def padded_size(grid: Grid) -> tuple[int, int]:
    """Return height and width of the image in whole tiles, pixels."""
    return grid.rows * grid.tile, grid.columns * grid.tile


def warps(grid: Grid) -> int:
    """Choose the warps of a program that walks a tile."""
    return max(grid.tile**2 // 256, 1)


def _composite(kernel, tables: tuple[Array, ...], lists: Lists, grid: Grid, channels: int) -> Array:
    groups = tables[0].shape[0]
    (image,) = call(
        functools.partial(kernel, grid=grid, channels=channels),
        [float32(groups, channels + 1, *padded_size(grid))],
        lists.ids,
        lists.starts,
        *tables,
        grid=(grid.tiles, groups),
        warps=warps(grid),
    )
    return image


def _composite_kernel(ids, starts, table, image, *, grid: Grid, channels: int):
    tile = tiles.this_tile(starts, grid)

    def step(carry):
        position, through, sums = carry
        rows = _load_rows(table, tiles.load_ids(ids, position), tile, position, channels)
        return position + CHUNK, *_draw(tile, rows, through, sums)

    nothing = jnp.zeros_like(tile.x)
    *_, sums = lax.while_loop(
        lambda carry: (carry[0] < tile.end) & (jnp.max(carry[1]) > 0),
        step,
        (tile.start, nothing + 1, [nothing] * (channels + 1)),
    )
    _store(image, tile, sums)


def _tangent_kernel(ids, starts, table, table_tangent, image_tangent, *, grid: Grid, channels: int):
    tile = tiles.this_tile(starts, grid)

    def step(carry):
        position, values, tangents = carry
        gaussians = tiles.load_ids(ids, position)
        rows, row_tangents = (
            _load_rows(source, gaussians, tile, position, channels)
            for source in (table, table_tangent)
        )
        draw = functools.partial(_draw, tile)
        values, tangents = jax.jvp(draw, (rows, *values), (row_tangents, *tangents))
        return position + CHUNK, values, tangents

    nothing = jnp.zeros_like(tile.x)
    sums = [nothing] * (channels + 1)
    *_, (_, sums) = lax.while_loop(
        lambda carry: (carry[0] < tile.end) & (jnp.max(carry[1][0]) > 0),
        step,
        (tile.start, (nothing + 1, sums), (nothing, sums)),
    )
    _store(image_tangent, tile, sums)


def _median_kernel(ids, starts, table, median, *, grid: Grid):
    tile = tiles.this_tile(starts, grid)

    def step(carry):
        position, through, found = carry
        gaussians = tiles.load_ids(ids, position)
        shapes = tiles.load_shapes(table, gaussians, tile, position)
        for gaussian, shape in zip(gaussians, shapes, strict=True):
            behind, alpha = tiles.draw(through, tiles.alphas(shape, tile))
            halves = (through > 0.5) & (behind <= 0.5) & (alpha > 0)
            through, found = behind, jnp.where(halves, gaussian, found)
        return position + CHUNK, through, found

    *_, found = lax.while_loop(
        lambda carry: (carry[0] < tile.end) & (jnp.max(carry[1]) > 0.5),
        step,
        (tile.start, jnp.ones_like(tile.x), jnp.full_like(tile.row, -1)),
    )
    median[tile.row, tile.column] = found


def _load_rows(table, gaussians: list[Array], tile: Tile, position: Array, channels: int):
    shapes = tiles.load_shapes(table, gaussians, tile, position)
    attributes = [tiles.load_attributes(table, gaussian, tile, channels) for gaussian in gaussians]
    return [(*shape, *row) for shape, row in zip(shapes, attributes, strict=True)]


def _draw(tile: Tile, rows: list[Row], through: Array, sums: list[Array]):
    """Draw Gaussians over what is there: transmittance and sums per channel."""
    evaluated = [tiles.alphas(row[:SHAPE_COLUMNS], tile) for row in rows]
    for row, alpha in zip(rows, evaluated, strict=True):
        behind, alpha = tiles.draw(through, alpha)
        weight = alpha * through
        through = behind
        *coloured, opaque = sums
        coloured = [
            total + weight * value
            for total, value in zip(coloured, row[SHAPE_COLUMNS:], strict=True)
        ]
        sums = [*coloured, opaque + weight]
    return through, sums


def _store(image, tile: Tile, channels: list[Array]):
    for channel, value in enumerate(channels):
        image[tile.group, channel, tile.row, tile.column] = value
