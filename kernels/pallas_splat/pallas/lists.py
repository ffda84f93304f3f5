"""Lists of Gaussians per tile, and where each list entry's gradient goes.

An entry has two places. Its place in the list of its tile is where the kernels read it. Its slot
is its place before entries were sorted by tile: there the entries of one Gaussian are neighbours,
so gradients written to slots are summed per Gaussian without another sort and without atomics.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from pallas_splat.binning import Grid, count, tile_boxes
from pallas_splat.pallas.call import require_gpu
from pallas_splat.sorting import depth_order, sort_by_key
from pallas_splat.structs import Projected

PADDING = 32
"""Entries that kernels may read past the end of a list."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of Gaussians per tile, front to back, each entry with its slot.

    Attributes:
        ids: Gaussian of each list entry; only the first `starts[-1]` mean something. Some
            further ones, of Gaussian 0, allow reading past the end.
        slots: slot of each list entry, likewise.
        starts: where the list of each tile starts, closed by the end of the last one.
        first_slots: slot of each Gaussian's first entry.
        counts: number of entries of each Gaussian, in consecutive slots.
        total: entries that the scene needs.
        overflow: whether they did not fit.
    """

    ids: Int[Array, " capacity_plus_padding"]
    slots: Int[Array, " capacity_plus_padding"]
    starts: Int[Array, " tiles_plus_1"]
    first_slots: Int[Array, " N"]
    counts: Int[Array, " N"]
    total: Int[Array, ""]
    overflow: Bool[Array, ""]

    @property
    def capacity(self) -> int:
        """Room for list entries."""
        return self.ids.shape[-1] - PADDING


def list_gaussians(projected: Projected, grid: Grid, capacity: int) -> Lists:
    """List the Gaussians of every tile from front to back.

    Args:
        projected: 2D Gaussians, at least one.
        grid: the tiles.
        capacity: room for list entries (static). Where it does not suffice, all lists are empty.
    """
    boxes = tile_boxes(projected, grid)
    total = count(boxes)
    overflow = total > capacity
    order = require_gpu(depth_order(jnp.where(boxes.count > 0, projected.depth, jnp.inf)))
    # Counts that do not fit may not fit into int32 either, and kernels do not check addresses.
    counts = jnp.where(overflow, 0, boxes.count)
    in_order = counts[order]
    first_slots = jnp.cumsum(in_order) - in_order
    first_slots = jnp.zeros_like(order).at[order].set(first_slots, unique_indices=True)
    owners = jnp.repeat(order, in_order, total_repeat_length=capacity)
    slots = jnp.arange(capacity, dtype=jnp.int32)
    nth = slots - first_slots[owners]
    columns = jnp.maximum(boxes.columns[owners], 1)
    row, column = boxes.top[owners] + nth // columns, boxes.left[owners] + nth % columns
    tile = jnp.where(slots < jnp.sum(counts), row * grid.columns + column, grid.tiles)
    by_tile, starts = sort_by_key(tile, grid.tiles + 1)
    return Lists(
        ids=jnp.pad(owners[by_tile], (0, PADDING)),
        slots=jnp.pad(by_tile, (0, PADDING)),
        starts=starts[: grid.tiles + 1],
        first_slots=first_slots,
        counts=counts,
        total=total,
        overflow=overflow,
    )
