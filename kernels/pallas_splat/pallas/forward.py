"""The kernels that composite, in values and in tangents, and the one that finds the median."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pallas_splat.binning import Grid
from pallas_splat.pallas import tile as tiles
from pallas_splat.pallas.call import call, float32
from pallas_splat.pallas.lists import Lists
from pallas_splat.pallas.tile import CHUNK, SHAPE_COLUMNS, Row, Tile


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Saved:
    """What the gradient needs to start in the middle of a list.

    The lists of all tiles together are cut into segments of `segment_length` entries.

    Attributes:
        states: in front of a segment whose first entry has the same tile as the one before: per
            pixel of this tile the transmittance and the sums of all channels; others hold anything.
        stops: where each tile stopped to look at its list.
    """

    states: Float[Array, "groups segments C_plus_1 P"]
    stops: Int[Array, "groups tiles"]


def segment_length(grid: Grid) -> int:
    """Entries of a segment: states of a pixel's size per entry, at least a few chunks."""
    return max(grid.tile**2, 8 * CHUNK)


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
    return _composite(_composite_kernel, (table,), lists, grid, channels)[0]


def composite_tiles_saving(
    table: Float[Array, "groups N R"], lists: Lists, grid: Grid, channels: int
) -> tuple[Float[Array, "groups C H_padded W_padded"], Saved]:
    """Do what `composite_tiles` does and save what its gradient needs."""
    segments = -(-lists.capacity // segment_length(grid))
    groups = table.shape[0]
    extra = [
        float32(groups, segments, channels + 2, grid.tile**2),
        jax.ShapeDtypeStruct((groups, grid.tiles), jnp.int32),
    ]
    image, states, stops = _composite(_composite_kernel, (table,), lists, grid, channels, extra)
    return image, Saved(states, stops)


def composite_tiles_jvp(
    table: Float[Array, "groups N R"],
    table_tangent: Float[Array, "groups N R"],
    lists: Lists,
    grid: Grid,
    channels: int,
) -> Float[Array, "groups C H_padded W_padded"]:
    """Compute the tangent of `composite_tiles` for a tangent of its table."""
    return _composite(_tangent_kernel, (table, table_tangent), lists, grid, channels)[0]


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


def _composite(
    kernel, tables: tuple[Array, ...], lists: Lists, grid: Grid, channels: int, extra=()
) -> list[Array]:
    groups = tables[0].shape[0]
    return call(
        functools.partial(kernel, grid=grid, channels=channels),
        [float32(groups, channels + 1, *padded_size(grid)), *extra],
        lists.ids,
        lists.starts,
        *tables,
        grid=(grid.tiles, groups),
        warps=warps(grid),
    )


def _composite_kernel(ids, starts, table, image, *saved, grid: Grid, channels: int):
    """Composite; each step loads the rows of the next chunk and the Gaussians of the one after."""
    tile = tiles.this_tile(starts, grid)
    load = functools.partial(_load_rows, table, tile=tile, channels=channels)

    def step(carry):
        position, through, sums, rows, gaussians = carry
        if saved:
            _save(saved[0], tile, position, [through, *sums], segment_length(grid))
        next_rows = load(gaussians)
        gaussians = tiles.load_ids(ids, position + 2 * CHUNK)
        through, sums = _draw(tile, position, rows, through, sums)
        return position + CHUNK, through, sums, next_rows, gaussians

    nothing = jnp.zeros_like(tile.x)
    first = tiles.first_chunk(tile.start)
    stop, _, sums, *_ = lax.while_loop(
        lambda carry: (carry[0] < tile.end) & (jnp.max(carry[1]) > 0),
        step,
        (
            first,
            nothing + 1,
            [nothing] * (channels + 1),
            load(tiles.load_ids(ids, first)),
            tiles.load_ids(ids, first + CHUNK),
        ),
    )
    _store(image, tile, sums)
    if saved:
        saved[1][tile.group, tile.index] = stop


def _save(states, tile: Tile, position: Array, state: list[Array], length: int):
    """Save the state where it is in front of a segment."""

    @pl.when((position % length == 0) & (position > tile.start))
    def _():
        pixel = lax.iota(jnp.int32, state[0].shape[0])
        for row, value in enumerate(state):
            states[tile.group, position // length, row, pixel] = value


def _tangent_kernel(ids, starts, table, table_tangent, image_tangent, *, grid: Grid, channels: int):
    tile = tiles.this_tile(starts, grid)

    def step(carry):
        position, values, tangents = carry
        gaussians = tiles.load_ids(ids, position)
        rows, row_tangents = (
            _load_rows(source, gaussians, tile=tile, channels=channels)
            for source in (table, table_tangent)
        )
        draw = functools.partial(_draw, tile, position)
        values, tangents = jax.jvp(draw, (rows, *values), (row_tangents, *tangents))
        return position + CHUNK, values, tangents

    nothing = jnp.zeros_like(tile.x)
    sums = [nothing] * (channels + 1)
    *_, (_, sums) = lax.while_loop(
        lambda carry: (carry[0] < tile.end) & (jnp.max(carry[1][0]) > 0),
        step,
        (tiles.first_chunk(tile.start), (nothing + 1, sums), (nothing, sums)),
    )
    _store(image_tangent, tile, sums)


def _median_kernel(ids, starts, table, median, *, grid: Grid):
    tile = tiles.this_tile(starts, grid)

    def step(carry):
        position, through, found = carry
        gaussians = tiles.load_ids(ids, position)
        shapes = tiles.load_shapes(table, gaussians, tile)
        for k, (gaussian, shape) in enumerate(zip(gaussians, shapes, strict=True)):
            behind, alpha = tiles.draw(through, tiles.alphas(shape, tile, position + k))
            halves = (through > 0.5) & (behind <= 0.5) & (alpha > 0)
            through, found = behind, jnp.where(halves, gaussian, found)
        return position + CHUNK, through, found

    *_, found = lax.while_loop(
        lambda carry: (carry[0] < tile.end) & (jnp.max(carry[1]) > 0.5),
        step,
        (tiles.first_chunk(tile.start), jnp.ones_like(tile.x), jnp.full_like(tile.row, -1)),
    )
    median[tile.row, tile.column] = found


def _load_rows(table, gaussians: list[Array], *, tile: Tile, channels: int):
    shapes = tiles.load_shapes(table, gaussians, tile)
    attributes = [tiles.load_attributes(table, gaussian, tile, channels) for gaussian in gaussians]
    return [(*shape, *row) for shape, row in zip(shapes, attributes, strict=True)]


def _draw(tile: Tile, position: Array, rows: list[Row], through: Array, sums: list[Array]):
    """Draw a chunk's Gaussians over what is there: transmittance and sums per channel."""
    evaluated = [
        tiles.alphas(row[:SHAPE_COLUMNS], tile, position + k) for k, row in enumerate(rows)
    ]
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
