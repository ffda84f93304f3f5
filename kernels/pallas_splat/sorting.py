"""Stable integer sorting and ordered sums, with a fast path for XLA on CPU.

XLA:CPU sorts key-value pairs at about 250 ns per element; the counting sort below needs about 17.
Elsewhere XLA's own sort is the better one. `lax.platform_dependent` picks when lowering.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from pallas_splat.linear import vary_together

_LANES = 16
_LANES_MANY_KEYS = 4  # beyond some 8k keys the histogram of 16 lanes outgrows the cache
_MANY_KEYS = 8192
_SCAN_BLOCK = 64
_DIGIT_BITS = 11  # three digits hold the 31 bits of a positive float32


def sort_by_key(
    keys: Int[Array, " M"], n_keys: int
) -> tuple[Int[Array, " M"], Int[Array, " n_keys_plus_1"]]:
    """Sort small integers stably.

    Args:
        keys: int32 in [0, n_keys).
        n_keys: number of different keys (static).

    Returns:
        The order (`keys[order]` is sorted) and where each key's run starts in it, closed by M.
    """
    return lax.platform_dependent(
        keys,
        cpu=lambda keys: _counting_sort(keys, n_keys),
        default=lambda keys: _library_sort(keys, n_keys),
    )


def depth_order(depth: Float[Array, " N"]) -> Int[Array, " N"]:
    """Order positive depths from near to far, equal ones by index.

    Args:
        depth: positive; +inf sorts last.

    Returns:
        int32 indices.
    """
    if depth.dtype != jnp.float32:
        return _library_order(depth)
    return lax.platform_dependent(depth, cpu=_radix_order, default=_library_order)


def exclusive_cumsum(x: Int[Array, " M"]) -> Int[Array, " M"]:
    """Sum all elements before each one.

    Blocks run side by side, since XLA:CPU's own `cumsum` takes 12 to 20 ns per element.
    """
    n = x.shape[0]
    blocks = -(-n // _SCAN_BLOCK)
    columns = jnp.pad(x, (0, blocks * _SCAN_BLOCK - n)).reshape(blocks, _SCAN_BLOCK).T

    def step(i, carry):
        running, out = carry
        return running + columns[i], lax.dynamic_update_index_in_dim(out, running, i, 0)

    initial = jnp.zeros(blocks, x.dtype), jnp.zeros_like(columns)
    totals, within = lax.fori_loop(0, _SCAN_BLOCK, step, vary_with(initial, x))
    before = jnp.cumsum(totals) - totals if blocks < 4096 else exclusive_cumsum(totals)
    return (within + before.astype(x.dtype)).T.reshape(-1)[:n]


def segment_sum(
    rows: Float[Array, "M D"], segments: Int[Array, " M"], n_segments: int
) -> Float[Array, "n_segments D"]:
    """Sum rows by segment, always in the same order.

    Scatter-add runs in index order on CPU. On a GPU it would use atomics, whose order varies, so
    elsewhere the rows are sorted and summed by a segmented scan.

    Args:
        rows: what to add up.
        segments: segment of each row; rows outside [0, n_segments) are dropped.
        n_segments: number of segments (static).
    """
    return lax.platform_dependent(
        rows,
        segments,
        cpu=lambda rows, segments: (
            jnp.zeros((n_segments, rows.shape[1]), rows.dtype).at[segments].add(rows, mode="drop")
        ),
        default=lambda rows, segments: _scan_segment_sum(rows, segments, n_segments),
    )


def vary_with(initial: PyTree, arrays: PyTree) -> PyTree:
    """Let a loop's first carry vary over the axes of a `shard_map` that the loop's arrays do."""
    return vary_together((initial, arrays))[0]


def _counting_sort(keys, n_keys: int):
    """Sort in lanes: each counts and then places a contiguous block of the input."""
    m = keys.shape[0]
    lanes = _LANES if n_keys <= _MANY_KEYS else _LANES_MANY_KEYS
    length = -(-m // lanes)
    padded = jnp.pad(keys, (0, lanes * length - m), constant_values=n_keys)
    bins = padded.reshape(lanes, length).T * lanes + jnp.arange(lanes, dtype=jnp.int32)
    histogram = jnp.zeros((n_keys + 1) * lanes, jnp.int32)
    histogram = histogram.at[bins].add(1, mode="promise_in_bounds")
    offsets = exclusive_cumsum(histogram)

    def place(i, carry):
        next_free, places = carry
        here = next_free.at[bins[i]].get(mode="promise_in_bounds")
        next_free = next_free.at[bins[i]].set(
            here + 1, unique_indices=True, mode="promise_in_bounds"
        )
        return next_free, lax.dynamic_update_index_in_dim(places, here, i, 0)

    initial = vary_with((offsets, jnp.zeros((length, lanes), jnp.int32)), keys)
    _, places = lax.fori_loop(0, length, place, initial)
    sources = jnp.arange(lanes * length, dtype=jnp.int32).reshape(lanes, length).T
    order = jnp.zeros(lanes * length, jnp.int32)
    order = order.at[places].set(sources, unique_indices=True, mode="promise_in_bounds")
    return order[:m], offsets.reshape(n_keys + 1, lanes)[:, 0]


def _library_order(keys):
    # JAX (0.10) forgets that the order varies where the keys do.
    return vary_with(jnp.argsort(keys, stable=True).astype(jnp.int32), keys)


def _library_sort(keys, n_keys: int):
    order = _library_order(keys)
    edges = jnp.arange(n_keys + 1, dtype=jnp.int32)
    return order, jnp.searchsorted(keys[order], edges).astype(jnp.int32)


def _radix_order(depth):
    """Sort by the bits of the floats, which for positive ones grow with the value."""
    bits = lax.bitcast_convert_type(depth, jnp.int32)

    def sort_digit(order, shift):
        digit = (bits[order] >> shift) & (2**_DIGIT_BITS - 1)
        return order[_counting_sort(digit, 2**_DIGIT_BITS)[0]], None

    shifts = jnp.arange(0, 32, _DIGIT_BITS, dtype=jnp.int32)
    return lax.scan(sort_digit, vary_with(jnp.arange(len(depth), dtype=jnp.int32), depth), shifts)[
        0
    ]


def _scan_segment_sum(rows, segments, n_segments: int):
    order = _library_order(segments)
    segments, rows = segments[order], rows[order]
    starts = jnp.concatenate([jnp.ones(1, bool), segments[1:] != segments[:-1]])

    def combine(left, right):
        left_start, left_sum = left
        right_start, right_sum = right
        summed = jnp.where(right_start[:, None], right_sum, left_sum + right_sum)
        return left_start | right_start, summed

    _, sums = lax.associative_scan(combine, (starts, rows))
    is_last = jnp.concatenate([segments[1:] != segments[:-1], jnp.ones(1, bool)])
    places = jnp.where(is_last & (segments >= 0), segments, n_segments)
    out = jnp.zeros((n_segments, rows.shape[1]), rows.dtype)
    return out.at[places].set(sums, mode="drop")
