"""The kernels of the gradient: one row per list entry, then one sum per Gaussian.

With c_k the product of upstream gradient and attributes of Gaussian k and w_k its weight,

    dL/da_k = T_(k-1) c_k - (sum over j > k of w_j c_j) / (1 - a_k).

The lists are walked front to back again, and the sum behind k is the total, known from the image,
less the running sum. Walking back to front from the final transmittance would need each pixel's
last Gaussian stored, could not stop a tile early, and would divide T by every 1 - a on its way,
down to 1/100 each; this way T is computed as in the forward kernel.

Every list entry writes its row of gradients once, to its slot; entries that are not drawn in
their tile write zeros. Where a Gaussian's rows are summed, they are neighbours and come in a fixed
order, so there are no atomics and gradients are the same from run to run.
"""

import functools
import math

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from pallas_splat.binning import Grid
from pallas_splat.config import ALPHA_MAX
from pallas_splat.pallas import tile as tiles
from pallas_splat.pallas.call import call, float32
from pallas_splat.pallas.forward import warps
from pallas_splat.pallas.lists import Lists
from pallas_splat.pallas.tile import CHUNK, SHAPE_COLUMNS, Row, Tile

_CLEARED = 128  # numbers that are set to zero at once
_SUMMED = 256  # numbers that a program of the sums holds
_UNROLL = 4  # rows that it loads at once
_OPACITY_FLOOR = 1e-12  # only rows that contribute nothing have less


def composite_tiles_vjp(
    table: Float[Array, "groups N R"],
    lists: Lists,
    image: Float[Array, "groups C H_padded W_padded"],
    image_grad: Float[Array, "groups C H_padded W_padded"],
    grid: Grid,
) -> Float[Array, "groups N R"]:
    """Differentiate `forward.composite_tiles` with respect to its table.

    Args:
        table: as it went in.
        lists: as they went in.
        image: what came out.
        image_grad: gradient of the loss with respect to that.
        grid: the tiles.
    """
    groups, _, columns = table.shape
    (rows,) = call(
        functools.partial(_rows_kernel, grid=grid),
        [float32(groups, lists.capacity + 1, columns)],  # the last row is for no entry
        lists.ids,
        lists.slots,
        lists.starts,
        table,
        image,
        image_grad,
        grid=(grid.tiles, groups),
        warps=warps(grid),
    )
    return _from_moments(_sum_rows(rows, lists), table)


def _sum_rows(rows: Float[Array, "groups rows R"], lists: Lists) -> Float[Array, "groups N R"]:
    """Add up the rows of each Gaussian."""
    groups, _, columns = rows.shape
    n = lists.counts.shape[0]
    ends = jnp.minimum(lists.first_slots + lists.counts, lists.capacity)
    block = max(_SUMMED // columns, 1)
    blocks = -(-n // block)
    padding = (0, blocks * block - n)
    (sums,) = call(
        functools.partial(_sum_kernel, block=block),
        [float32(groups, blocks * block, columns)],
        jnp.pad(lists.first_slots, padding),
        jnp.pad(ends, padding),
        rows,
        grid=(blocks, groups),
        warps=4,
        output_blocks=[pl.BlockSpec((None, block, columns), lambda i, group: (group, i, 0))],
    )
    return sums[:, :n]


def _from_moments(sums: Float[Array, "groups N R"], table: Float[Array, "groups N R"]):
    """Turn what the rows kernel sums up into the gradient of the table.

    With e the exponent, the sums are those of dL/de times dx, dy, dx^2, dx dy, dy^2 and 1.
    """
    xx, xy, yy, opacity = (table[..., column] for column in range(2, SHAPE_COLUMNS))
    m_x, m_y, m_xx, m_xy, m_yy, m = (sums[..., column] for column in range(SHAPE_COLUMNS))
    shape_grads = (
        -(2 * xx * m_x + xy * m_y),
        -(xy * m_x + 2 * yy * m_y),
        m_xx,
        m_xy,
        m_yy,
        # alpha is the opacity times 2^e, so alpha dL/dalpha = dL/de / ln 2.
        m / (math.log(2) * jnp.maximum(opacity, _OPACITY_FLOOR)),
    )
    return jnp.concatenate([jnp.stack(shape_grads, axis=-1), sums[..., SHAPE_COLUMNS:]], axis=-1)


def _rows_kernel(ids, slots, starts, table, image, image_grad, rows, *, grid: Grid):
    tile = tiles.this_tile(starts, grid)
    upstream = [
        image_grad[tile.group, channel, tile.row, tile.column] for channel in range(image.shape[1])
    ]
    total = jnp.zeros_like(tile.x)
    for channel, grad in enumerate(upstream):
        total = total + image[tile.group, channel, tile.row, tile.column] * grad

    def step(carry):
        position, through, behind_sum = carry
        gaussians = tiles.load_ids(ids, position)
        places = [_place(slots, rows, position + k, tile) for k in range(CHUNK)]
        shapes = tiles.load_shapes(table, gaussians, tile, position)
        before, alphas, begin = [], [], through
        for alpha in [tiles.alphas(shape, tile) for shape in shapes]:
            before.append(through)
            through, alpha = tiles.draw(through, alpha)
            alphas.append(alpha)

        def differentiate(behind_sum):
            drawn = zip(gaussians, shapes, before, alphas, places, strict=True)
            for gaussian, shape, through, alpha, place in drawn:
                behind_sum, row = _differentiate(
                    tiles.load_attributes(table, gaussian, tile, len(upstream) - 1),
                    (through, alpha, behind_sum),
                    upstream,
                    (tile.x - shape[0], tile.y - shape[1]),
                )
                rows[tile.group, place, :] = _as_vector(row, rows.shape[2])
            return behind_sum

        def skip(behind_sum):
            for place in places:
                rows[tile.group, place, :] = jnp.zeros(rows.shape[2], jnp.float32)
            return behind_sum

        touched = jnp.max(begin - through) > 0
        behind_sum = lax.cond(touched, differentiate, skip, behind_sum)
        return position + CHUNK, through, behind_sum

    position, *_ = lax.while_loop(
        lambda carry: (carry[0] < tile.end) & (jnp.max(carry[1]) > 0),
        step,
        (tile.start, jnp.ones_like(tile.x), total),
    )
    _clear(slots, rows, tile, position)


def _place(slots, rows, entry: Array, tile: Tile) -> Array:
    """Row of an entry's gradient; past the end of the tile's list, the one for no entry."""
    return jnp.where(entry < tile.end, slots[entry], rows.shape[1] - 1)


def _differentiate(
    attributes: Row, state: tuple[Array, Array, Array], upstream: list[Array], offset
) -> tuple[Array, list[Array]]:
    """Differentiate one Gaussian in one tile.

    Args:
        attributes: the Gaussian's.
        state: transmittance before it, its alpha or 0 if not drawn, and the sum of w_j c_j from
            it on, per pixel.
        upstream: gradient of the loss with respect to each channel, per pixel.
        offset: from its centre, pixels.

    Returns:
        The sum of w_j c_j behind it, per pixel, and its row of gradients.
    """
    through, alpha, behind_sum = state
    dx, dy = offset
    weight = alpha * through
    pull = upstream[-1]
    for value, grad in zip(attributes, upstream[:-1], strict=True):
        pull = pull + value * grad
    pull = weight * pull
    behind_sum = behind_sum - pull
    inverse_root = lax.rsqrt(1 - alpha)  # one instruction, where a division takes eight
    exponent_grad = pull - behind_sum * (alpha * inverse_root * inverse_root)
    # A capped alpha does not move.
    exponent_grad = jnp.where(alpha < ALPHA_MAX, math.log(2) * exponent_grad, 0)
    by_x, by_y = exponent_grad * dx, exponent_grad * dy
    moments = by_x, by_y, by_x * dx, by_x * dy, by_y * dy, exponent_grad
    row = [*moments, *(weight * grad for grad in upstream[:-1])]
    return behind_sum, [jnp.sum(column) for column in row]


def _as_vector(row: list[Array], length: int) -> Array:
    """Put scalars into a vector, to be stored at once; zeros follow."""
    column = lax.iota(jnp.int32, length)
    vector = jnp.zeros(length, jnp.float32)
    for nth, value in enumerate(row):
        vector = jnp.where(column == nth, value, vector)
    return vector


def _clear(slots, rows, tile: Tile, position: Array):
    """Write zero rows for the rest of the tile's list."""
    columns = rows.shape[2]
    entries = max(_CLEARED // columns, 1)
    column = lax.iota(jnp.int32, columns)[None]

    def clear(position):
        place = _place(slots, rows, position + lax.iota(jnp.int32, entries), tile)[:, None]
        rows[tile.group, place, column] = jnp.zeros((entries, columns), jnp.float32)
        return position + entries

    lax.while_loop(lambda position: position < tile.end, clear, position)


def _sum_kernel(first_slots, ends, rows, sums, *, block: int):
    group = pl.program_id(1)
    gaussian = pl.program_id(0) * block + lax.iota(jnp.int32, block)
    first, end = first_slots[gaussian], ends[gaussian]
    column = lax.iota(jnp.int32, rows.shape[2])[None]

    def step(carry):
        slot, total = carry
        for _ in range(_UNROLL):
            exists = slot < end
            row = rows.at[group, jnp.where(exists, slot, 0)[:, None], column]
            total = total + triton.load(row, mask=exists[:, None], other=0.0)
            slot = slot + 1
        return slot, total

    _, total = lax.while_loop(
        lambda carry: jnp.max(end - carry[0]) > 0,
        step,
        (first, jnp.zeros(sums.shape, jnp.float32)),
    )
    sums[...] = total
