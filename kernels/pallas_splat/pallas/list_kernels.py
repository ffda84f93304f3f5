"""The kernels that make the lists: counts of tiles, owners of slots, starts of tiles.

XLA can express all of it, but its cumulative sums, `repeat` and `searchsorted` take some hundred
launches on a GPU, which cost more time than the compositing itself. Here they take four.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int, Shaped

from pallas_splat.binning import COUNT_MAX, Grid
from pallas_splat.pallas.call import call, float32
from pallas_splat.pallas.outlines import Outline, load_outline, span

LENGTH = 1024
"""Lists are of a multiple of this length."""

_COUNTED = 256  # ranks that a program counts for
_EXPANDED = 4  # Gaussians whose slots a program, of one warp, writes
_ROWS = 8  # of tiles of each that it writes at once
_CLEARED = 32  # slots of nobody that it writes at once
_WARPS = 4


def sum_counts(
    order: Int[Array, " N"], outlines: Float[Array, "N 16"], grid: Grid, capacity: int
) -> tuple[Int[Array, " M"], Int[Array, "1"]]:
    """Count the tiles of every Gaussian and give it its first slot, in an order.

    Args:
        order: Gaussian of each rank.
        outlines: of the Gaussians.
        grid: the tiles.
        capacity: slots that there are.

    Returns:
        Of each rank the sum of the counts before it; ranks from N on hold the sum of all. All
        zero if the sum exceeds the capacity. And that sum; 2^31 - 1 stands for "2^30 or more".
    """
    n = order.shape[0]
    blocks = n // _COUNTED + 1  # at least one rank past the last
    ordered, sums, sizes = call(
        functools.partial(_count, n=n, grid=grid),
        [_int32(blocks * _COUNTED), _int32(blocks), float32(blocks)],
        order,
        outlines,
        grid=(blocks,),
        warps=_WARPS,
    )
    offsets, total = call(
        functools.partial(_add_counts, blocks=blocks, capacity=capacity),
        [_int32(blocks * _COUNTED), _int32(1)],
        ordered,
        sums,
        sizes,
        grid=(blocks,),
        warps=_WARPS,
    )
    return offsets, total


def expand(
    order: Int[Array, " N"],
    offsets: Int[Array, " M"],
    outlines: Float[Array, "N 16"],
    grid: Grid,
    length: int,
) -> tuple[Shaped[Array, " length"], Int[Array, " length"], Int[Array, " length"]]:
    """Give every slot its tile and its Gaussian.

    Args:
        order: Gaussian of each rank.
        offsets: first slot of each rank, see `sum_counts`.
        outlines: of the Gaussians.
        grid: the tiles.
        length: number of slots.

    Returns:
        The tiles, as unsigned integers of as few bits as can number them, so that sorting takes
        fewer passes; slots that no Gaussian owns get the number behind the last tile. The
        Gaussians; Gaussian 0 for those slots. And the slots themselves.
    """
    number = jnp.uint16 if grid.tiles < 2**16 else jnp.uint32
    tiles, owners, slots = call(
        functools.partial(_expand, n=order.shape[0], length=length, grid=grid),
        [jax.ShapeDtypeStruct((length,), number), _int32(length), _int32(length)],
        order,
        offsets,
        outlines,
        grid=(-(-order.shape[0] // _EXPANDED),),
        warps=1,
    )
    return tiles, owners, slots


def index(
    tiles: Shaped[Array, " length"],
    slots: Int[Array, " length"],
    owners: Int[Array, " length"],
    n_tiles: int,
) -> tuple[Int[Array, " length"], Int[Array, " M"]]:
    """Give every entry its Gaussian, and find where each tile's run of entries starts.

    Args:
        tiles: of each entry, in order.
        slots: of each entry.
        owners: Gaussian of each slot.
        n_tiles: number of tiles.

    Returns:
        The Gaussians. And the starts, M > n_tiles of them; that of n_tiles is where the last
        tile's run ends.
    """
    length = tiles.shape[0]
    blocks = n_tiles // LENGTH + 1
    ids, starts = call(
        functools.partial(_index, length=length, blocks=blocks),
        [_int32(length), _int32(blocks * LENGTH)],
        tiles,
        slots,
        owners,
        grid=(max(length // LENGTH, blocks),),
        warps=_WARPS,
    )
    return ids, starts


def _count(order, outlines, ordered, sums, sizes, *, n: int, grid: Grid):
    block = pl.program_id(0)
    rank = block * _COUNTED + lax.iota(jnp.int32, _COUNTED)
    outline = load_outline(outlines, order[jnp.minimum(rank, n - 1)])
    rows = jnp.where(rank < n, outline.rows, 0)

    def add_row(row, count):
        return count + jnp.where(row < rows, span(outline, row, grid)[1], 0)

    count = lax.fori_loop(0, jnp.max(rows), add_row, jnp.zeros_like(rank))
    ordered[rank] = count
    sums[block] = jnp.sum(count)
    sizes[block] = jnp.sum(count.astype(jnp.float32))  # where the sum may wrap


def _add_counts(ordered, sums, sizes, offsets, total, *, blocks: int, capacity: int):
    block = pl.program_id(0)
    number = lax.iota(jnp.int32, max(1 << (blocks - 1).bit_length(), 32))
    exists, there = number < blocks, jnp.minimum(number, blocks - 1)
    sums = jnp.where(exists, sums[there], 0)
    countable = jnp.sum(jnp.where(exists, sizes[there], 0)) < COUNT_MAX
    whole = jnp.where(countable, jnp.sum(sums), jnp.iinfo(jnp.int32).max)
    before = jnp.sum(jnp.where(number < block, sums, 0))
    rank = block * _COUNTED + lax.iota(jnp.int32, _COUNTED)
    count = ordered[rank]
    offsets[rank] = jnp.where(whole <= capacity, before + lax.cumsum(count) - count, 0)

    @pl.when(block == 0)
    def _():
        total[0] = whole


def _expand(order, offsets, outlines, tiles, owners, slots, *, n: int, length: int, grid: Grid):
    """Write the slots of some Gaussians, a few rows of tiles of each at a time."""
    program = pl.program_id(0)

    def write(slot, tile, owner, mask):
        triton.store(tiles.at[slot], tile.astype(tiles.dtype), mask=mask)
        triton.store(owners.at[slot], owner, mask=mask)
        triton.store(slots.at[slot], slot, mask=mask)

    rank = program * _EXPANDED + lax.iota(jnp.int32, _EXPANDED)
    owner = order[jnp.minimum(rank, n - 1)]
    fields = load_outline(outlines, owner)
    outline = Outline(*(field[:, None] for field in fields))
    start, stop = (offsets[jnp.minimum(rank + k, n)] for k in range(2))
    rows = jnp.where(start < stop, fields.rows, 0)

    def write_rows(nth, start):
        row = nth * _ROWS + lax.iota(jnp.int32, _ROWS)[None]
        first, count = span(outline, row, grid)
        count = jnp.where(row < rows[:, None], count, 0)
        slot = start[:, None] + lax.cumsum(count, axis=1) - count
        tile = (outline.top + row) * grid.columns + outline.left + first

        def write_column(column, _):
            by_row = jnp.broadcast_to(owner[:, None], slot.shape)
            write(slot + column, tile + column, by_row, column < count)

        lax.fori_loop(0, jnp.max(jnp.max(count, axis=1)), write_column, None)
        return start + jnp.sum(count, axis=1)

    lax.fori_loop(0, pl.cdiv(jnp.max(rows), _ROWS), write_rows, start)

    def write_rest(slot):
        write(slot, jnp.full_like(slot, grid.tiles), jnp.zeros_like(slot), slot < length)
        return slot + pl.cdiv(n, _EXPANDED) * _CLEARED

    slot = offsets[n] + program * _CLEARED + lax.iota(jnp.int32, _CLEARED)
    lax.while_loop(lambda slot: jnp.min(slot) < length, write_rest, slot)


def _index(tiles, slots, owners, ids, starts, *, length: int, blocks: int):
    block = pl.program_id(0)
    number = block * LENGTH + lax.iota(jnp.int32, LENGTH)

    @pl.when(block < length // LENGTH)
    def _():
        ids[number] = owners[slots[number]]

    def halve(_, bounds):
        """Keep the first entry that is of this tile or a later one between the bounds."""
        low, high = bounds
        middle = (low + high) >> 1
        is_low = tiles[jnp.minimum(middle, length - 1)].astype(jnp.int32) < number
        is_low &= low < high
        return jnp.where(is_low, middle + 1, low), jnp.where(is_low, high, middle)

    @pl.when(block < blocks)
    def _():
        bounds = jnp.zeros_like(number), jnp.full_like(number, length)
        starts[number], _ = lax.fori_loop(0, length.bit_length(), halve, bounds)


def _int32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)
