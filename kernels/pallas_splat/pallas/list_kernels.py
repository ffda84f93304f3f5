"""The kernels that make the lists: sums of counts, owners of slots, starts of tiles.

XLA can express all of it, but its cumulative sums, `repeat` and `searchsorted` take some hundred
launches on a GPU, which cost more time than the compositing itself. Here they take four.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Int, Shaped

from pallas_splat.binning import COUNT_MAX, Boxes, Grid
from pallas_splat.pallas.call import call, float32

BLOCK = 1024
"""Numbers that a program works on."""

_WARPS = 4


def sum_counts(
    order: Int[Array, " N"], counts: Int[Array, " N"], capacity: int
) -> tuple[Int[Array, " M"], Int[Array, "1"]]:
    """Give every Gaussian its first slot, in an order.

    Args:
        order: Gaussian of each rank.
        counts: slots that each Gaussian needs.
        capacity: slots that there are.

    Returns:
        Of each rank the sum of the counts before it; ranks from N on hold the sum of all. All
        zero if the sum exceeds the capacity. And that sum; 2^31 - 1 stands for "2^30 or more".
    """
    n = order.shape[0]
    blocks = n // BLOCK + 1  # at least one rank past the last
    ordered, sums, sizes = call(
        functools.partial(_gather_counts, n=n),
        [_int32(blocks * BLOCK), _int32(blocks), float32(blocks)],
        order,
        counts,
        grid=(blocks,),
        warps=_WARPS,
    )
    offsets, total = call(
        functools.partial(_add_counts, blocks=blocks, capacity=capacity),
        [_int32(blocks * BLOCK), _int32(1)],
        ordered,
        sums,
        sizes,
        grid=(blocks,),
        warps=_WARPS,
    )
    return offsets, total


def expand(
    order: Int[Array, " N"], offsets: Int[Array, " M"], boxes: Boxes, grid: Grid, length: int
) -> tuple[Shaped[Array, " length"], Int[Array, " length"], Int[Array, " length"]]:
    """Give every slot its tile and its Gaussian.

    Args:
        order: Gaussian of each rank.
        offsets: first slot of each rank, see `sum_counts`.
        boxes: of the Gaussians.
        grid: the tiles.
        length: number of slots, a multiple of `BLOCK`.

    Returns:
        The tiles, as unsigned integers of as few bits as can number them, so that sorting takes
        fewer passes; slots that no Gaussian owns get the number behind the last tile. The
        Gaussians. And the slots themselves.
    """
    number = jnp.uint16 if grid.tiles < 2**16 else jnp.uint32
    tiles, owners, slots = call(
        functools.partial(_expand, n=order.shape[0], grid=grid),
        [jax.ShapeDtypeStruct((length,), number), _int32(length), _int32(length)],
        order,
        offsets,
        boxes.left,
        boxes.top,
        boxes.columns,
        grid=(length // BLOCK,),
        warps=_WARPS,
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
        The Gaussians. And the starts, M > n_tiles of them; from n_tiles on, where the last run
        ends or later.
    """
    length = tiles.shape[0]
    blocks = n_tiles // BLOCK + 1
    ids, starts = call(
        functools.partial(_index, length=length, blocks=blocks),
        [_int32(length), _int32(blocks * BLOCK)],
        tiles,
        slots,
        owners,
        grid=(max(length // BLOCK, blocks),),
        warps=_WARPS,
    )
    return ids, starts


def _gather_counts(order, counts, ordered, sums, sizes, *, n: int):
    block = pl.program_id(0)
    rank = block * BLOCK + lax.iota(jnp.int32, BLOCK)
    count = jnp.where(rank < n, counts[order[jnp.minimum(rank, n - 1)]], 0)
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
    rank = block * BLOCK + lax.iota(jnp.int32, BLOCK)
    count = ordered[rank]
    offsets[rank] = jnp.where(whole <= capacity, before + lax.cumsum(count) - count, 0)

    @pl.when(block == 0)
    def _():
        total[0] = whole


def _expand(order, offsets, left, top, columns, tiles, owners, slots, *, n: int, grid: Grid):
    slot = pl.program_id(0) * BLOCK + lax.iota(jnp.int32, BLOCK)

    def halve(_, bounds):
        """Keep the last rank whose first slot is not behind this one between the bounds."""
        low, high = bounds
        middle = (low + high + 1) >> 1
        is_low = offsets[middle] <= slot
        return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle - 1)

    bounds = jnp.zeros_like(slot), jnp.full_like(slot, n - 1)
    rank, _ = lax.fori_loop(0, n.bit_length(), halve, bounds)
    owner = order[rank]
    nth = slot - offsets[rank]
    width = jnp.maximum(columns[owner], 1)
    row, column = top[owner] + nth // width, left[owner] + nth % width
    tile = jnp.where(slot < offsets[n], row * grid.columns + column, grid.tiles)
    tiles[slot] = tile.astype(tiles.dtype)
    owners[slot] = owner
    slots[slot] = slot


def _index(tiles, slots, owners, ids, starts, *, length: int, blocks: int):
    block = pl.program_id(0)
    number = block * BLOCK + lax.iota(jnp.int32, BLOCK)

    @pl.when(block < length // BLOCK)
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
