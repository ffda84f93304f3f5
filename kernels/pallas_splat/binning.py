"""Which Gaussians a tile has to look at, in which order."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from pallas_splat.sorting import depth_order, exclusive_cumsum, sort_by_key
from pallas_splat.structs import Projected

COUNT_MAX = 2**30
"""Totals from here on are reported as 2^31 - 1, before int32 can wrap."""

_LENGTH_BUCKETS = 2048


@dataclasses.dataclass(frozen=True)
class Grid:
    """The square tiles that cover an image, numbered row by row (static).

    Attributes:
        width: of the image, pixels.
        height: of the image, pixels.
        tile: side of a tile, pixels.
    """

    width: int
    height: int
    tile: int

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.width // self.tile)

    @property
    def rows(self) -> int:
        """Tiles on top of each other."""
        return -(-self.height // self.tile)

    @property
    def tiles(self) -> int:
        """Tiles in all."""
        return self.columns * self.rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Boxes:
    """The rectangle of tiles that each Gaussian may touch; `count` is 0 for invisible ones."""

    left: Int[Array, " N"]
    top: Int[Array, " N"]
    columns: Int[Array, " N"]
    count: Int[Array, " N"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bins:
    """Lists of Gaussians per tile, front to back.

    Attributes:
        ids: Gaussian of each list entry; only the first `starts[-1]` mean something.
        starts: where the list of each tile starts, closed by the end of the last one.
        queue: all tiles, roughly from the longest list to the shortest.
        busy: tiles whose list is not empty; they come first in the queue.
        total: entries that the scene needs.
        overflow: whether they did not fit.
    """

    ids: Int[Array, " capacity"]
    starts: Int[Array, " tiles_plus_1"]
    queue: Int[Array, " tiles"]
    busy: Int[Array, ""]
    total: Int[Array, ""]
    overflow: Bool[Array, ""]


def tile_boxes(projected: Projected, grid: Grid) -> Boxes:
    """Find the tiles under the box of each Gaussian."""

    def interval(centre, extent, size):
        first = jnp.clip(jnp.floor((centre - extent) / grid.tile), 0, size).astype(jnp.int32)
        last = jnp.clip(jnp.ceil((centre + extent) / grid.tile), 0, size).astype(jnp.int32)
        return first, jnp.maximum(last - first, 0)

    left, columns = interval(projected.x, projected.extent_x, grid.columns)
    top, rows = interval(projected.y, projected.extent_y, grid.rows)
    return Boxes(left, top, columns, jnp.where(projected.visible, columns * rows, 0))


def count(boxes: Boxes) -> Int[Array, ""]:
    """Count all pairs of Gaussian and tile; 2^31 - 1 stands for "2^30 or more"."""
    approximate = jnp.sum(boxes.count.astype(jnp.float32))
    exact = jnp.sum(boxes.count, dtype=jnp.int32)
    return jnp.where(approximate < COUNT_MAX, exact, jnp.iinfo(jnp.int32).max)


def bin_gaussians(projected: Projected, grid: Grid, capacity: int) -> Bins:
    """List the Gaussians of every tile from front to back.

    Gaussians are put in depth order, every one is repeated for each tile of its box, and a stable
    sort by tile finishes the lists.

    Args:
        projected: 2D Gaussians, at least one.
        grid: the tiles.
        capacity: room for list entries (static). Those beyond are left out: check `overflow`.
    """
    boxes = tile_boxes(projected, grid)
    total = count(boxes)
    order = depth_order(jnp.where(boxes.count > 0, projected.depth, jnp.inf))
    counts = boxes.count[order]
    offsets = exclusive_cumsum(counts)

    slots = jnp.arange(capacity, dtype=jnp.int32)
    rank = _owners(offsets, counts, capacity)
    row = jnp.stack([boxes.left, boxes.top, boxes.columns], axis=1)[order]
    left, top, columns, offset = jnp.concatenate([row, offsets[:, None]], axis=1)[rank].T
    nth = slots - offset
    columns = jnp.maximum(columns, 1)
    tile = (top + nth // columns) * grid.columns + left + nth % columns
    tile = jnp.where(slots < total, tile, grid.tiles)
    by_tile, starts = sort_by_key(tile, grid.tiles + 1)
    starts = starts[: grid.tiles + 1]
    lengths = starts[1:] - starts[:-1]
    shortness = _LENGTH_BUCKETS - 1 - jnp.minimum(lengths, _LENGTH_BUCKETS - 1)
    return Bins(
        ids=order[rank[by_tile]],
        starts=starts,
        queue=sort_by_key(shortness, _LENGTH_BUCKETS)[0],
        busy=jnp.sum(lengths > 0, dtype=jnp.int32),
        total=total,
        overflow=total > capacity,
    )


def _owners(offsets, counts, capacity: int) -> Int[Array, " capacity"]:
    """Rank of the Gaussian that owns each slot, Gaussian r owning counts[r] from offsets[r] on."""
    n = counts.shape[0]
    owns = counts > 0
    nth_owner = exclusive_cumsum(owns.astype(jnp.int32))
    owner_ranks = jnp.zeros(n, jnp.int32)
    owner_ranks = owner_ranks.at[jnp.where(owns, nth_owner, n)].set(
        jnp.arange(n, dtype=jnp.int32), mode="drop"
    )
    first_slots = jnp.zeros(capacity, jnp.int32)
    first_slots = first_slots.at[jnp.where(owns, offsets, capacity)].add(1, mode="drop")
    owner = exclusive_cumsum(first_slots) + first_slots - 1
    return owner_ranks[jnp.maximum(owner, 0)]
