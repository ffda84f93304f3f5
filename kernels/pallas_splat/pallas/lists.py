"""Lists of Gaussians per tile, and where each list entry's gradient goes.

An entry has two places. Its place in the list of its tile is where the kernels read it. Its slot
is its place before entries were sorted by tile: there the entries of one Gaussian are neighbours,
so gradients written to slots are summed per Gaussian without another sort and without atomics.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, Shaped

from pallas_splat.binning import COUNT_MAX, Grid, tile_boxes
from pallas_splat.pallas.call import require_gpu
from pallas_splat.pallas.list_kernels import LENGTH, expand, index, sum_counts
from pallas_splat.pallas.outlines import outline_table
from pallas_splat.sorting import depth_order
from pallas_splat.structs import Projected

PADDING = 32
"""Entries that kernels may read past the end of a list."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of Gaussians per tile, front to back, each entry with its slot.

    Attributes:
        ids: Gaussian of each list entry; only the first `starts[tiles]` mean something. Some
            further ones, of any Gaussian, allow reading past the end.
        slots: slot of each list entry, likewise.
        tiles: tile of each list entry, unsigned; past the last entry the number of tiles.
        starts: where the list of each tile starts; from `tiles` on, where the last one ends.
        order: all Gaussians front to back.
        offsets: first slot of each Gaussian in this order; from N on, the number of slots.
        total: entries that the scene needs.
        overflow: whether they did not fit; all lists are then empty.
        capacity: room for list entries (static).
    """

    ids: Int[Array, " length"]
    slots: Int[Array, " length"]
    tiles: Shaped[Array, " length"]
    starts: Int[Array, " tiles_and_more"]
    order: Int[Array, " N"]
    offsets: Int[Array, " N_and_more"]
    total: Int[Array, ""]
    overflow: Bool[Array, ""]
    capacity: int = dataclasses.field(metadata={"static": True})


def list_gaussians(projected: Projected, grid: Grid, capacity: int) -> Lists:
    """List the Gaussians of every tile from front to back.

    Args:
        projected: 2D Gaussians, at least one.
        grid: the tiles.
        capacity: room for list entries (static). Where it does not suffice, all lists are empty:
            kernels do not check addresses.
    """
    boxes = tile_boxes(projected, grid)
    order = require_gpu(depth_order(jnp.where(boxes.count > 0, projected.depth, jnp.inf)))
    outlines = outline_table(projected, boxes)
    offsets, total = sum_counts(order, outlines, grid, capacity)
    length = -(-(capacity + PADDING) // LENGTH) * LENGTH
    tiles, owners, slots = expand(order, offsets, outlines, grid, length)
    # A stable sort of small integers, which XLA leaves to CUB's radix sort.
    tiles, slots = lax.sort((tiles, slots), num_keys=1, is_stable=True)
    ids, starts = index(tiles, slots, owners, grid.tiles)
    return Lists(
        ids=ids,
        slots=slots,
        tiles=tiles,
        starts=starts,
        order=order,
        offsets=offsets,
        total=total[0],
        overflow=total[0] > capacity,
        capacity=capacity,
    )


def count_entries(projected: Projected, grid: Grid) -> Int[Array, ""]:
    """Count the entries of all lists; 2^31 - 1 stands for "2^30 or more"."""
    order = require_gpu(lax.iota(jnp.int32, len(projected.x)))
    outlines = outline_table(projected, tile_boxes(projected, grid))
    return sum_counts(order, outlines, grid, COUNT_MAX)[1][0]
