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

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_splat import lanes as lanes_lib
from pallas_splat.binning import Bins, Grid
from pallas_splat.config import ALPHA_MAX, TRANSMITTANCE_MIN, Config
from pallas_splat.lanes import ROW_ATTRIBUTES
from pallas_splat.sorting import segment_sum

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
    dtype = table.dtype
    x, y = lanes_lib.pixel_centres(grid, dtype)
    n_channels = table.shape[1] - ROW_ATTRIBUTES

    def step(carry):
        lanes, through, sums, out = carry
        rows, _ = lanes_lib.fetch(table, lanes, bins, grid, config.chunk)
        through, sums = _composite_chunk(rows, lanes_lib.alphas(rows, x, y), through, sums)
        # Unfinished lanes write too: their next write overwrites this one. Idle lanes share the
        # row past the last tile, which is dropped.
        out = out.at[lanes.tile].set(sums, mode="promise_in_bounds")
        finished = _finished(lanes, through, config.chunk)
        lanes = lanes_lib.advance(lanes, bins, config.chunk, finished)
        through = jnp.where(finished[:, None], 1, through)
        sums = jnp.where(finished[:, None, None], 0, sums)
        return lanes, through, sums, out

    *_, out = lax.while_loop(
        lambda carry: jnp.any(carry[0].tile < grid.tiles),
        step,
        (
            lanes_lib.start(bins, config.lanes),
            jnp.ones((config.lanes, x.size), dtype),
            jnp.zeros((config.lanes, n_channels, x.size), dtype),
            jnp.zeros((grid.tiles + 1, n_channels, x.size), dtype),
        ),
    )
    return out[: grid.tiles]


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
    total = jnp.sum(out * out_grad, axis=1, keepdims=True)
    upstream = jnp.pad(jnp.concatenate([out_grad, total], axis=1), ((0, 1), (0, 0), (0, 0)))

    def step(carry):
        lanes, through, running, entry_grads = carry
        rows, entry = lanes_lib.fetch(table, lanes, bins, grid, config.chunk)
        through, running, row_grads = _chunk_vjp(
            rows, lanes_lib.alphas(rows, x, y), upstream[lanes.tile], through, running, x, y
        )
        entry_grads = entry_grads.at[entry].set(row_grads, mode="promise_in_bounds")
        finished = _finished(lanes, through, config.chunk)
        lanes = lanes_lib.advance(lanes, bins, config.chunk, finished)
        through = jnp.where(finished[:, None], 1, through)
        running = jnp.where(finished[:, None], 0, running)
        return lanes, through, running, entry_grads

    *_, entry_grads = lax.while_loop(
        lambda carry: jnp.any(carry[0].tile < grid.tiles),
        step,
        (
            lanes_lib.start(bins, config.lanes),
            jnp.ones((config.lanes, x.size), dtype),
            jnp.zeros((config.lanes, x.size), dtype),
            jnp.zeros((capacity + 1, table.shape[1]), dtype),
        ),
    )
    n = table.shape[0]
    used = jnp.arange(capacity, dtype=jnp.int32) < bins.starts[-1]
    return segment_sum(entry_grads[:capacity], jnp.where(used, bins.ids, n), n)


def _finished(lanes: lanes_lib.Lanes, through, chunk: int):
    return (lanes.position + chunk >= lanes.end) | (jnp.max(through, axis=1) == 0)


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


def _chunk_vjp(rows, alpha, upstream, through, running, x, y):
    """Gradient rows of a chunk. `upstream` holds D channels and the total of w_j c_j."""
    upstream, total = upstream[:, :-1], upstream[:, -1]
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
