"""What the kernels share: a tile's pixels, rows of the table, alpha and transmittance.

A program works on one tile with all pixels of the tile in vectors of P. It walks the tile's list a
chunk at a time; a chunk is unrolled, so that its loads and exponentials overlap. Chunks start at
multiples of their size, wherever lists start, and leave out what is not of the tile. Tiles of up to
16 x 16 pixels are one warp's, so that nothing needs a barrier or shared memory.

A row of the table starts with what `shape_columns` gives: centre x, y (pixels), the exponent's
coefficients xx, xy, yy (log2 of a factor, per pixel^2), opacity. Attributes follow, then zeros up
to a power of two: rows are aligned, and a column's address is a constant off its row's.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from pallas_splat.binning import Grid
from pallas_splat.config import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN
from pallas_splat.project import shape_rows
from pallas_splat.structs import Projected

SHAPE_COLUMNS = 6
CHUNK = 4
"""Gaussians per step.

Compiled by triton 3.9 for sm_90, 8 x 8 tiles, four attributes: 2, 4, 8 Gaussians per step take 70,
68, 67 instructions per Gaussian forward, and 252, 243, 239 (71, 79, 141 registers) for the
gradient. A step of 4 overlaps as many loads at half the registers of 8.
"""

Row = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Tile:
    """What a program works on.

    Attributes:
        index: number of the tile.
        group: of channels.
        start: place of the first entry of the tile's list.
        end: place behind its last entry.
        row: of each pixel in the image, [P].
        column: of each pixel in the image, [P].
        x: centre of each pixel, [P] pixels.
        y: centre of each pixel, [P] pixels.
    """

    index: Array
    group: Array
    start: Array
    end: Array
    row: Array
    column: Array
    x: Array
    y: Array


def shape_columns(projected: Projected) -> Float[Array, "N 6"]:
    """Scale the conics so that alpha = opacity * 2^(xx dx^2 + xy dx dy + yy dy^2)."""
    x, y, xx, xy, yy, opacity = shape_rows(projected).T
    log2_e = math.log2(math.e)
    exponents = -0.5 * log2_e * xx, -log2_e * xy, -0.5 * log2_e * yy
    return jnp.stack([x, y, *exponents, opacity], axis=1)


def this_tile(starts, grid: Grid) -> Tile:
    """Locate the work of this program; programs are numbered by tile and channel group."""
    return get_tile(pl.program_id(0), pl.program_id(1), starts, grid)


def get_tile(index: Array, group: Array, starts, grid: Grid) -> Tile:
    """Locate a tile by its number."""
    pixel = lax.iota(jnp.int32, grid.tile**2)
    row = index // grid.columns * grid.tile + pixel // grid.tile
    column = index % grid.columns * grid.tile + pixel % grid.tile
    return Tile(
        index=index,
        group=group,
        start=starts[index],
        end=starts[index + 1],
        row=row,
        column=column,
        x=column.astype(jnp.float32) + 0.5,
        y=row.astype(jnp.float32) + 0.5,
    )


def load_ids(ids, position: Array) -> list[Array]:
    """Load the Gaussians of the chunk at a position of the lists."""
    return [ids[position + k] for k in range(CHUNK)]


def load_shapes(table, gaussians: list[Array], tile: Tile) -> list[Row]:
    """Load what gives the alphas of a chunk."""
    return [
        tuple(table[tile.group, gaussian, column] for column in range(SHAPE_COLUMNS))
        for gaussian in gaussians
    ]


def is_of(tile: Tile, entry: Array) -> Array:
    """Return whether an entry is in the tile's list."""
    return (tile.start <= entry) & (entry < tile.end)


def first_chunk(position: Array) -> Array:
    """Where the chunk starts that holds an entry."""
    return position // CHUNK * CHUNK


def load_attributes(table, gaussian: Array, tile: Tile, channels: int) -> Row:
    """Load the attributes of a Gaussian."""
    columns = range(SHAPE_COLUMNS, SHAPE_COLUMNS + channels)
    return tuple(table[tile.group, gaussian, column] for column in columns)


def alphas(shape: Row, tile: Tile, entry: Array) -> Array:
    """Evaluate a Gaussian's alpha in the pixels of a tile; zero if the entry is not of its list."""
    x0, y0, xx, xy, yy, opacity = shape
    opacity = jnp.where(is_of(tile, entry), opacity, 0)
    dx, dy = tile.x - x0, tile.y - y0
    exponent = dx * (xx * dx + xy * dy) + yy * dy * dy
    alpha = opacity * jnp.exp2(jnp.where(exponent < 0, exponent, 0))
    alpha = jnp.where(alpha < ALPHA_MAX, alpha, ALPHA_MAX)
    return jnp.where(alpha >= ALPHA_MIN, alpha, 0)


def draw(through: Array, alpha: Array) -> tuple[Array, Array]:
    """Let light pass a Gaussian; the one that would let too little through ends its pixel.

    Args:
        through: transmittance before it.
        alpha: its own.

    Returns:
        The transmittance behind it, 0 once the pixel has ended, and its alpha, 0 if not drawn.
    """
    behind = through - alpha * through
    goes_on = behind > TRANSMITTANCE_MIN
    return jnp.where(goes_on, behind, 0), jnp.where(goes_on, alpha, 0)
