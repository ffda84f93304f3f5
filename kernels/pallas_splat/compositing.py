"""Front-to-back compositing of tiles, forward and backward.

Each pixel carries the transmittance T of what has been drawn. A Gaussian with alpha a that leaves
`T (1 - a)` at or below `TRANSMITTANCE_MIN` is not drawn and sets T to zero: nothing is drawn after
it. Opacity needs no channel of its own: it is the composite of the attribute 1.

Backward, with c_k the product of upstream gradient and attributes of Gaussian k and w_k its
weight, the loss gradient is

    dL/da_k = T_(k-1) c_k - (sum over j > k of w_j c_j) / (1 - a_k).

The lists are walked front to back again, and the sum behind k is the total (known from the image)
less the running sum, so no per-pixel state has to be stored. Every list entry writes its gradient
row exactly once; rows are then summed per Gaussian in a fixed order.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_splat import lanes as lanes_lib
from pallas_splat.binning import Bins, Grid
from pallas_splat.config import ALPHA_MAX, TRANSMITTANCE_MIN, Config
from pallas_splat.lanes import ROW_ATTRIBUTES
from pallas_splat.sorting import segment_sum, vary_with

_OPACITY_FLOOR = 1e-12  # only rows that contribute nothing have less


def composite_tiles(
    table: Float[Array, "N_plus_1 R"], bins: Bins, grid: Grid, config: Config
) -> Float[Array, "tiles D P"]:
    """Composite the attributes of a table's rows.

    Args:
        table: rows (x, y, conic xx, xy, yy, opacity, attributes ...), the last one all zero.
        bins: lists of rows per tile.
        grid: the tiles.
        config: number of lanes and size of chunks.

    Returns:
        Weighted sums of the D attributes in the P pixels of each tile.
    """
    n_channels, n_pixels = table.shape[1] - ROW_ATTRIBUTES, grid.tile**2

    def draw(rows, alpha, through, sums, out, lanes, entry):
        del entry
        through, sums = _composite_chunk(rows, alpha, through, sums)
        # Unfinished lanes write too: their next write overwrites this one. Idle lanes share the
        # row past the last tile, which is dropped.
        return through, sums, out.at[lanes.tile].set(sums, mode="promise_in_bounds")

    sums = jnp.zeros((config.lanes, n_channels, n_pixels), table.dtype)
    out = jnp.zeros((grid.tiles + 1, n_channels, n_pixels), table.dtype)
    return _work_off(draw, sums, out, table, bins, grid, config)[: grid.tiles]


def median_tiles(
    table: Float[Array, "N_plus_1 6"], bins: Bins, grid: Grid, config: Config
) -> Int[Array, "tiles P"]:
    """Find the row that takes each pixel's transmittance to one half or below, or -1.

    Args:
        table: rows (x, y, conic xx, xy, yy, opacity), the last one all zero.
        bins: lists of rows per tile.
        grid: the tiles.
        config: number of lanes and size of chunks.
    """
    n_pixels = grid.tile**2

    def draw(rows, alpha, through, found, out, lanes, entry):
        del rows
        for k in range(config.chunk):
            behind = _behind(through, alpha[k])
            halves = (through > 0.5) & (behind <= 0.5)
            found = jnp.where(halves, entry[k][:, None], found)
            through = jnp.where(behind > 0.5, behind, 0)
        return through, found, out.at[lanes.tile].set(found, mode="promise_in_bounds")

    found = jnp.full((config.lanes, n_pixels), -1, jnp.int32)
    out = jnp.full((grid.tiles + 1, n_pixels), -1, jnp.int32)
    entries = _work_off(draw, found, out, table, bins, grid, config)[: grid.tiles]
    return jnp.where(entries >= 0, bins.ids[jnp.maximum(entries, 0)], -1)


def composite_tiles_vjp(
    table: Float[Array, "N_plus_1 R"],
    bins: Bins,
    out: Float[Array, "tiles D P"],
    out_grad: Float[Array, "tiles D P"],
    grid: Grid,
    config: Config,
) -> Float[Array, "N_plus_1 R"]:
    """Differentiate `composite_tiles` with respect to its table.

    Args:
        table: as it went in.
        bins: as they went in.
        out: what came out.
        out_grad: gradient of the loss with respect to `out`.
        grid: the tiles.
        config: number of lanes and size of chunks.
    """
    dtype = table.dtype
    x, y = lanes_lib.pixel_centres(grid, dtype)
    capacity = bins.ids.shape[0]
    total = jnp.sum(out * out_grad, axis=1)

    def draw(rows, alpha, through, running, entry_grads, lanes, entry):
        # An idle lane's rows are blank, so it does not matter which tile's gradient it meets.
        tile = jnp.minimum(lanes.tile, grid.tiles - 1)
        through, running, row_grads = _chunk_vjp(
            rows, alpha, out_grad[tile], total[tile], through, running, x, y
        )
        return through, running, entry_grads.at[entry].set(row_grads, mode="promise_in_bounds")

    running = jnp.zeros((config.lanes, x.size), dtype)
    entry_grads = jnp.zeros((capacity + 1, table.shape[1]), dtype)
    entry_grads = _work_off(draw, running, entry_grads, table, bins, grid, config)
    n = table.shape[0]
    used = jnp.arange(capacity, dtype=jnp.int32) < bins.starts[-1]
    return segment_sum(entry_grads[:capacity], jnp.where(used, bins.ids, n), n)


def _work_off(
    draw: Callable[..., Any],
    state: Array,
    out: Array,
    table: Float[Array, "N_plus_1 R"],
    bins: Bins,
    grid: Grid,
    config: Config,
) -> Array:
    """Draw the lists of all tiles.

    Args:
        draw: `(rows, alpha, transmittance, state, out, lanes, list entries)` of a chunk to
            transmittance, state and out after it.
        state: of each lane at the start of a tile.
        out: what is written to.
        table: rows, the last one all zero.
        bins: lists of rows per tile.
        grid: the tiles.
        config: number of lanes and size of chunks.

    Returns:
        out.
    """
    x, y = lanes_lib.pixel_centres(grid, table.dtype)
    fresh = state

    def step(carry):
        lanes, through, state, out = carry
        rows, entry = lanes_lib.fetch(table, lanes, bins, grid, config.chunk)
        alpha = lanes_lib.alphas(rows, x, y)
        through, state, out = draw(rows, alpha, through, state, out, lanes, entry)
        at_end = lanes.position + config.chunk >= lanes.end
        finished = at_end | (jnp.max(through, axis=1) == 0)
        lanes = lanes_lib.advance(lanes, bins, config.chunk, finished)
        through = jnp.where(finished[:, None], 1, through)
        state = jnp.where(finished.reshape(-1, *[1] * (state.ndim - 1)), fresh, state)
        return lanes, through, state, out

    through = jnp.ones((config.lanes, x.size), table.dtype)
    initial = lanes_lib.start(bins, config.lanes), through, state, out
    busy = lambda carry: jnp.any(carry[0].tile < grid.tiles)  # noqa: E731
    return lax.while_loop(busy, step, vary_with(initial, (table, bins, out)))[-1]


def _behind(through, alpha):
    """Transmittance behind a Gaussian, zero where it ends the pixel."""
    behind = through - alpha * through
    return jnp.where(behind > TRANSMITTANCE_MIN, behind, 0)


def _composite_chunk(rows, alpha, through, sums):
    """Draw G rows per lane."""
    chain = [through]
    for k in range(rows.shape[0]):
        chain.append(_behind(chain[-1], alpha[k]))
    for k in range(rows.shape[0]):
        weight = jnp.where(chain[k + 1] > 0, chain[k] - chain[k + 1], 0)
        sums = sums + weight[:, None] * rows[k, :, ROW_ATTRIBUTES:, None]
    return chain[-1], sums


def _chunk_vjp(rows, alpha, upstream, total, through, running, x, y):
    """Gradient rows of a chunk. `upstream` holds D channels, `total` the total of w_j c_j."""
    attributes = rows[..., ROW_ATTRIBUTES:]
    pull = jnp.zeros_like(alpha)
    for d in range(upstream.shape[1]):
        pull = pull + attributes[..., d : d + 1] * upstream[None, :, d]

    def draw(k, carry):
        through, running, weights, running_sums = carry
        behind = _behind(through, alpha[k])
        weight = jnp.where(behind > 0, through - behind, 0)
        running = running + weight * pull[k]
        weights = lax.dynamic_update_index_in_dim(weights, weight, k, 0)
        running_sums = lax.dynamic_update_index_in_dim(running_sums, running, k, 0)
        return behind, running, weights, running_sums

    through, running, weights, running_sums = lax.fori_loop(
        0, len(rows), draw, (through, running, jnp.zeros_like(alpha), jnp.zeros_like(alpha))
    )
    # dL/dsigma = -alpha dL/dalpha; a capped alpha does not move with sigma.
    moves = (weights > 0) & (alpha < ALPHA_MAX)
    sigma_grad = jnp.where(moves, (total - running_sums) * alpha / (1 - alpha) - weights * pull, 0)
    attribute_grads = lax.dot_general(
        weights, upstream, (((2,), (2,)), ((1,), (0,))), precision="highest"
    ).transpose(1, 0, 2)
    return (
        through,
        running,
        jnp.concatenate([_shape_grads(rows, sigma_grad, x, y), attribute_grads], axis=-1),
    )


def _shape_grads(rows, sigma_grad, x, y):
    """Pull dL/dsigma back to centre, conic and opacity through its moments.

    One matrix product gives the moments about the tile's centre for all rows; shifting them to
    each Gaussian's own centre is exact.
    """
    n_rows, n_lanes, n_pixels = sigma_grad.shape
    centre = jnp.mean(x)
    u, v = x - centre, y - centre
    monomials = jnp.stack([jnp.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    moments = jnp.dot(
        sigma_grad.reshape(n_rows * n_lanes, n_pixels), monomials, precision="highest"
    ).reshape(n_rows, n_lanes, 6)
    m, m_u, m_v, m_uu, m_uv, m_vv = (moments[..., i] for i in range(6))
    x0, y0, xx, xy, yy, opacity = (rows[..., i] for i in range(ROW_ATTRIBUTES))
    x0, y0 = x0 - centre, y0 - centre
    s_x, s_y = m_u - x0 * m, m_v - y0 * m
    s_xx = m_uu - 2 * x0 * m_u + x0 * x0 * m
    s_xy = m_uv - x0 * m_v - y0 * m_u + x0 * y0 * m
    s_yy = m_vv - 2 * y0 * m_v + y0 * y0 * m
    return jnp.stack(
        [
            -(xx * s_x + xy * s_y),
            -(xy * s_x + yy * s_y),
            0.5 * s_xx,
            s_xy,
            0.5 * s_yy,
            -m / jnp.maximum(opacity, _OPACITY_FLOOR),
        ],
        axis=-1,
    )
