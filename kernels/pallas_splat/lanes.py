"""A queue of tiles worked off by persistent lanes.

XLA has no threads to hand tiles to, but vectorises over array axes: `lanes` tiles are composited
side by side, a chunk of Gaussians per step, and a lane that has finished its tile takes the next
from the queue. Long lists come first, so that the lanes run dry together.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pallas_splat.binning import Bins, Grid
from pallas_splat.config import ALPHA_MAX, ALPHA_MIN

ROW_ATTRIBUTES = 6
"""Column of a table's first attribute; x, y, three conic entries and the opacity come before."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """What each lane is at: its tile (`grid.tiles` when idle), next and last list entry.

    `taken` counts the tiles taken from the queue so far.
    """

    tile: Int[Array, " B"]
    position: Int[Array, " B"]
    end: Int[Array, " B"]
    taken: Int[Array, ""]


def start(bins: Bins, n_lanes: int) -> Lanes:
    """Give each lane its first tile."""
    return _take(bins, jnp.arange(n_lanes, dtype=jnp.int32), jnp.int32(n_lanes))


def advance(lanes: Lanes, bins: Bins, chunk: int, finished: Bool[Array, " B"]) -> Lanes:
    """Move busy lanes on by a chunk and give finished ones the next tiles of the queue."""
    nth = lanes.taken + jnp.cumsum(finished, dtype=jnp.int32) - 1
    fresh = _take(bins, nth, lanes.taken + jnp.sum(finished, dtype=jnp.int32))
    return Lanes(
        tile=jnp.where(finished, fresh.tile, lanes.tile),
        position=jnp.where(finished, fresh.position, lanes.position + chunk),
        end=jnp.where(finished, fresh.end, lanes.end),
        taken=fresh.taken,
    )


def fetch(
    table: Float[Array, "N_plus_1 R"], lanes: Lanes, bins: Bins, grid: Grid, chunk: int
) -> tuple[Float[Array, "G B R"], Int[Array, "G B"]]:
    """Read the next chunk of rows for every lane, centres relative to the tile's corner.

    Args:
        table: one row per Gaussian; the last row is invisible and stands in past a list's end.
        lanes: where each lane is.
        bins: the lists.
        grid: the tiles.
        chunk: G, rows per lane.

    Returns:
        The rows, and the list entry of each (past its list's end: the capacity).
    """
    capacity = bins.ids.shape[0]
    entry = lanes.position + jnp.arange(chunk, dtype=jnp.int32)[:, None]
    exists = entry < lanes.end
    gaussian = jnp.where(exists, bins.ids[jnp.minimum(entry, capacity - 1)], table.shape[0] - 1)
    corner = jnp.stack([lanes.tile % grid.columns, lanes.tile // grid.columns], axis=1) * grid.tile
    corner = jnp.pad(corner.astype(table.dtype), ((0, 0), (0, table.shape[1] - 2)))
    return table[gaussian] - corner, jnp.where(exists, entry, capacity)


def pixel_centres(grid: Grid, dtype) -> tuple[Float[Array, " P"], Float[Array, " P"]]:
    """Give the pixel centres of a tile relative to its corner, row by row."""
    x = (jnp.arange(grid.tile, dtype=dtype) + 0.5)[None].repeat(grid.tile, axis=0)
    return x.reshape(-1), x.T.reshape(-1)


def alphas(
    rows: Float[Array, "G B R"], x: Float[Array, " P"], y: Float[Array, " P"]
) -> Float[Array, "G B P"]:
    """Evaluate every row in every pixel of its lane's tile."""
    dx, dy = x - rows[..., 0:1], y - rows[..., 1:2]
    sigma = (0.5 * rows[..., 2:3]) * dx * dx + (0.5 * rows[..., 4:5]) * dy * dy
    sigma = sigma + rows[..., 3:4] * dx * dy
    alpha = jnp.minimum(rows[..., 5:6] * jnp.exp(jnp.minimum(-sigma, 0)), ALPHA_MAX)
    return jnp.where(alpha >= ALPHA_MIN, alpha, 0)


def _take(bins: Bins, nth: Int[Array, " B"], taken: Int[Array, ""]) -> Lanes:
    """Tiles at places `nth` of the queue; beyond its busy part there is nothing to do."""
    n_tiles = bins.queue.shape[0]
    exists = nth < bins.busy
    tile = jnp.where(exists, bins.queue[jnp.minimum(nth, n_tiles - 1)], n_tiles)
    start = jnp.where(exists, bins.starts[tile], 0)
    end = jnp.where(exists, bins.starts[jnp.minimum(tile + 1, n_tiles)], 0)
    return Lanes(tile, start, end, taken)
