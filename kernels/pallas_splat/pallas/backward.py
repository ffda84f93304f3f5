"""The kernels of the gradient: one row per list entry, then one sum per Gaussian.

With c_k the product of upstream gradient and attributes of Gaussian k and w_k its weight,

    dL/da_k = T_(k-1) c_k - (sum over j > k of w_j c_j) / (1 - a_k).

The lists are walked front to back again, and the sum behind k is the total, known from the image,
less the running sum. Walking back to front from the final transmittance would need each pixel's
last Gaussian stored, could not stop a tile early, and would divide T by every 1 - a on its way,
down to 1/100 each; this way T is computed as in the forward kernel.

A program takes one segment of the lists, whichever tiles' entries it holds, and starts from the
state that the forward kernel saved there: long lists are shared out over many programs (as in S. S.
Mallick et al., "Taming 3DGS", SIGGRAPH Asia 2024, whose buckets are of 32).

A list entry that is drawn writes its row of gradients once, to its slot, and marks the slot. Where
a Gaussian's rows are summed, they are neighbours and come in a fixed order, so there are no atomics
and gradients are the same from run to run.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int8

from pallas_splat.binning import Grid
from pallas_splat.config import ALPHA_MAX
from pallas_splat.pallas import tile as tiles
from pallas_splat.pallas.call import call, float32
from pallas_splat.pallas.forward import Saved, segment_length, warps
from pallas_splat.pallas.lists import Lists
from pallas_splat.pallas.tile import CHUNK, SHAPE_COLUMNS, Row, Tile

_SUMMED = 8  # Gaussians whose rows a program sums
_AT_ONCE = 16  # rows of each that it loads at once
_WARPS = 4  # of such a program
_OPACITY_FLOOR = 1e-12  # only rows that contribute nothing have less


def composite_tiles_vjp(
    table: Float[Array, "groups N R"],
    lists: Lists,
    image: Float[Array, "groups C H_padded W_padded"],
    saved: Saved,
    image_grad: Float[Array, "groups C H_padded W_padded"],
    grid: Grid,
) -> Float[Array, "groups N R"]:
    """Differentiate `forward.composite_tiles` with respect to its table.

    Args:
        table: as it went in.
        lists: as they went in.
        image: what came out.
        saved: what came with it.
        image_grad: gradient of the loss with respect to that.
        grid: the tiles.
    """
    groups, _, columns = table.shape
    slots = lists.ids.shape[0]  # more than the capacity; the last one is no entry's
    marks = jnp.zeros((groups, slots), jnp.int8)
    marks, rows = call(
        functools.partial(_rows_kernel, grid=grid),
        [jax.ShapeDtypeStruct(marks.shape, marks.dtype), float32(groups, slots, columns)],
        marks,
        lists.ids,
        lists.slots,
        lists.tiles,
        lists.starts,
        table,
        image,
        image_grad,
        saved.states,
        saved.stops,
        grid=(saved.states.shape[1], groups),
        warps=warps(grid),
        aliases={0: 0},
    )
    return _from_moments(_sum_rows(rows, marks, lists), table)


def _sum_rows(
    rows: Float[Array, "groups slots R"], marks: Int8[Array, "groups slots"], lists: Lists
) -> Float[Array, "groups N R"]:
    """Add up the marked rows of each Gaussian."""
    groups, _, columns = rows.shape
    n = lists.order.shape[0]
    (sums,) = call(
        functools.partial(_sum_kernel, n=n),
        [float32(groups, n + 1, columns)],  # the last row is for no Gaussian
        lists.order,
        lists.offsets,
        marks,
        rows,
        grid=(-(-n // _SUMMED), groups),
        warps=_WARPS,
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


def _rows_kernel(
    _,
    ids,
    slots,
    entry_tiles,
    starts,
    table,
    image,
    image_grad,
    states,
    stops,
    marks,
    rows,
    *,
    grid,
):
    """Write the rows of a segment's entries, tile by tile."""
    length = segment_length(grid)
    segment, group = pl.program_id(0), pl.program_id(1)
    end = jnp.minimum((segment + 1) * length, starts[grid.tiles])

    def differentiate_tile(position):
        """Write the rows of the entries from here on that are of one tile; return their end."""
        tile = tiles.get_tile(entry_tiles[position].astype(jnp.int32), group, starts, grid)
        upstream = [
            image_grad[tile.group, channel, tile.row, tile.column]
            for channel in range(image.shape[1])
        ]
        pixel = lax.iota(jnp.int32, grid.tile**2)
        state = [
            jnp.where(position == tile.start, start, states[tile.group, segment, row, pixel])
            for row, start in enumerate([1.0, *[0.0] * len(upstream)])
        ]
        behind_sum = jnp.zeros_like(tile.x)
        for channel, (before, grad) in enumerate(zip(state[1:], upstream, strict=True)):
            total = image[tile.group, channel, tile.row, tile.column]
            behind_sum = behind_sum + (total - before) * grad
        stop = jnp.minimum(end, stops[tile.group, tile.index])
        lax.while_loop(
            lambda carry: (carry[0] < stop) & (jnp.max(carry[1]) > 0),
            functools.partial(
                _differentiate_chunk, (ids, slots, table, marks, rows), tile, upstream
            ),
            (tiles.first_chunk(position), state[0], behind_sum),
        )
        return jnp.minimum(end, tile.end)

    lax.while_loop(lambda position: position < end, differentiate_tile, segment * length)


def _differentiate_chunk(refs, tile: Tile, upstream: list[Array], carry):
    ids, slots, table, marks, rows = refs
    position, through, behind_sum = carry
    gaussians = tiles.load_ids(ids, position)
    shapes = tiles.load_shapes(table, gaussians, tile)
    before, alphas, begin = [], [], through
    for alpha in [tiles.alphas(shape, tile, position + k) for k, shape in enumerate(shapes)]:
        before.append(through)
        through, alpha = tiles.draw(through, alpha)
        alphas.append(alpha)

    def differentiate(behind_sum):
        drawn = zip(gaussians, shapes, before, alphas, strict=True)
        for k, (gaussian, shape, through, alpha) in enumerate(drawn):
            behind_sum, row = _differentiate(
                tiles.load_attributes(table, gaussian, tile, len(upstream) - 1),
                (through, alpha, behind_sum),
                upstream,
                (tile.x - shape[0], tile.y - shape[1]),
            )
            entry = position + k
            slot = jnp.where(tiles.is_of(tile, entry), slots[entry], rows.shape[1] - 1)
            rows[tile.group, slot, :] = _as_vector(row, rows.shape[2])
            marks[tile.group, slot] = jnp.int8(1)
        return behind_sum

    touched = jnp.max(begin - through) > 0
    behind_sum = lax.cond(touched, differentiate, lambda behind_sum: behind_sum, behind_sum)
    return position + CHUNK, through, behind_sum


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


def _sum_kernel(order, offsets, marks, rows, sums, *, n: int):
    """Sum the rows of some Gaussians: every `_AT_ONCE`th row of each first, then these sums."""
    group, columns = pl.program_id(1), rows.shape[2]
    rank = pl.program_id(0) * _SUMMED + lax.iota(jnp.int32, _SUMMED)
    first, end = offsets[rank], offsets[jnp.minimum(rank + 1, n)]
    column = lax.iota(jnp.int32, columns)

    def add_rows(nth, total):
        slot = first[:, None] + nth * _AT_ONCE + lax.iota(jnp.int32, _AT_ONCE)
        place = jnp.minimum(slot, marks.shape[1] - 1)
        is_marked = (slot < end[:, None]) & (marks[group, place] > 0)
        row = rows.at[group, place[:, :, None], column[None, None]]
        return total + triton.load(row, mask=is_marked[:, :, None], other=0.0)

    nothing = jnp.zeros((_SUMMED, _AT_ONCE, columns), jnp.float32)
    total = lax.fori_loop(0, pl.cdiv(jnp.max(end - first), _AT_ONCE), add_rows, nothing)
    gaussian = jnp.where(rank < n, order[jnp.minimum(rank, n - 1)], n)
    sums[group, gaussian[:, None], column[None]] = jnp.sum(total, axis=1)
