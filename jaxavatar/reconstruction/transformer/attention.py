"""Full softmax attention whose memory grows with the number of tokens, not with its square.

At 40 000 Gaussians the body block attends over 44 096 tokens: one head's matrix of scores would
take 8 GB. Keys and values are visited block by block under a running maximum and sum (Milakov and
Gimelshein, 2018; Rabe and Staats, 2021), and the backward pass recomputes the scores of a block.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Method = Literal["dense", "blocks", "cudnn"]

# Up to this many scores per head the whole matrix is faster than blocks.
_DENSE_SCORES = 2**18


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Block sizes of the blockwise method: one head's block of scores stays in a core's cache."""

    queries: int = 256
    keys: int = 512


def attend(
    queries: Float[Array, "B n h d"],
    keys: Float[Array, "B m h d"],
    values: Float[Array, "B m h d"],
    method: Method | None = None,
    blocks: Blocks = Blocks(),
) -> Float[Array, "B n h d"]:
    """Return softmax(Q K^T / sqrt(d)) V for every head.

    Args:
        queries: of one type with keys and values; the softmax is computed in float32 or better.
        keys: any number of them, at least one.
        values: one per key.
        method: "dense" holds all scores (XLA), "blocks" is linear in memory anywhere, "cudnn" is
            the fused kernel of NVIDIA GPUs for half precision; None chooses by size, type and
            the default backend.
        blocks: sizes for "blocks".
    """
    if method is None:
        method = _method(queries, keys.shape[1])
    if method == "blocks":
        return _blockwise(queries, keys, values, blocks)
    if method == "cudnn":
        return jax.nn.dot_product_attention(queries, keys, values, implementation="cudnn")
    # Not `dot_product_attention`: its softmax is in float32 even for float64.
    exact = jnp.promote_types(queries.dtype, jnp.float32)
    scores = jnp.einsum("bnhd,bmhd->bhnm", queries, keys, preferred_element_type=exact)
    weights = jax.nn.softmax(scores * queries.shape[-1] ** -0.5).astype(values.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, values)


def _method(queries: Float[Array, "B n h d"], n_keys: int) -> Method:
    if queries.shape[1] * n_keys <= _DENSE_SCORES:
        return "dense"
    half = queries.dtype in (jnp.bfloat16, jnp.float16)
    if half and jax.default_backend() == "gpu" and queries.shape[-1] % 8 == 0:
        return "cudnn"
    return "blocks"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _blockwise(
    queries: Float[Array, "B n h d"],
    keys: Float[Array, "B m h d"],
    values: Float[Array, "B m h d"],
    blocks: Blocks,
) -> Float[Array, "B n h d"]:
    return _forward(queries, keys, values, blocks)[0]


def _forward(
    queries: Float[Array, "B n h d"],
    keys: Float[Array, "B m h d"],
    values: Float[Array, "B m h d"],
    blocks: Blocks,
) -> tuple[Float[Array, "B n h d"], tuple]:
    """Attend head by head; keep the logarithm of every query's sum of exponentials."""
    size_q, size_k = _sizes(queries, keys, blocks)
    real = _real(keys.shape[1], size_k)

    def head(parts: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        rows, columns, content = parts
        return jax.lax.map(lambda row: _attend_row(row, columns, content, real), rows)

    columns, content = (_heads_first(x, size_k) for x in (keys, values))
    mixed, norms = jax.lax.map(head, (_heads_first(queries, size_q), columns, content))
    attended = _heads_back(mixed, queries.shape)
    return attended, (queries, keys, values, attended, norms)


def _attend_row(
    query: Float[Array, "q d"],
    columns: Float[Array, "K k d"],
    content: Float[Array, "K k d"],
    real: Bool[Array, "K k"],
) -> tuple[Float[Array, "q d"], Float[Array, " q"]]:
    exact = jnp.promote_types(query.dtype, jnp.float32)

    def visit(state: tuple, block: tuple) -> tuple[tuple, None]:
        peak, total, mixed = state
        key, value, kept = block
        scores = _scores(query, key, kept)
        higher = jnp.maximum(peak, scores.max(-1))
        shrink, weights = jnp.exp(peak - higher), jnp.exp(scores - higher[:, None])
        added = jnp.matmul(weights.astype(value.dtype), value, preferred_element_type=exact)
        total = shrink * total + weights.sum(-1)
        return (higher, total, shrink[:, None] * mixed + added), None

    peak = jnp.full(query.shape[:1], jnp.finfo(exact).min, exact)
    start = (peak, jnp.zeros_like(peak), jnp.zeros(query.shape, exact))
    (peak, total, mixed), _ = jax.lax.scan(visit, start, (columns, content, real))
    return (mixed / total[:, None]).astype(query.dtype), peak + jnp.log(total)


def _backward(
    blocks: Blocks, saved: tuple, gradient: Float[Array, "B n h d"]
) -> tuple[Float[Array, "B n h d"], Float[Array, "B m h d"], Float[Array, "B m h d"]]:
    """Recompute each block of weights once (Dao et al., 2022, algorithm 4)."""
    queries, keys, values, attended, norms = saved
    size_q, size_k = _sizes(queries, keys, blocks)
    real = _real(keys.shape[1], size_k)
    exact = norms.dtype
    scale = queries.shape[-1] ** -0.5

    def head(parts: tuple) -> tuple[Array, Array, Array]:
        rows, columns, content, outputs, changes, norms = parts

        def row(totals: tuple[Array, Array], row_parts: tuple) -> tuple[tuple, Array]:
            query, output, change, norm = row_parts
            along = (change.astype(exact) * output.astype(exact)).sum(-1)

            def visit(of_query: Array, block: tuple) -> tuple[Array, tuple[Array, Array]]:
                key, value, kept = block
                weights = jnp.exp(_scores(query, key, kept) - norm[:, None])
                of_weights = jnp.matmul(change, value.T, preferred_element_type=exact)
                of_scores = weights * (of_weights - along[:, None]) * scale
                weights, of_scores = weights.astype(key.dtype), of_scores.astype(key.dtype)
                of_query += jnp.matmul(of_scores, key, preferred_element_type=exact)
                of_key = jnp.matmul(of_scores.T, query, preferred_element_type=exact)
                of_value = jnp.matmul(weights.T, change, preferred_element_type=exact)
                return of_query, (of_key, of_value)

            start = jnp.zeros(query.shape, exact)
            of_query, added = jax.lax.scan(visit, start, (columns, content, real))
            return jax.tree.map(jnp.add, totals, added), of_query

        zeros = jnp.zeros(columns.shape, exact)
        totals, of_queries = jax.lax.scan(row, (zeros, zeros), (rows, outputs, changes, norms))
        return of_queries, *totals

    outputs, changes, rows = (_heads_first(x, size_q) for x in (attended, gradient, queries))
    columns, content = (_heads_first(x, size_k) for x in (keys, values))
    found = jax.lax.map(head, (rows, columns, content, outputs, changes, norms))
    of_queries, of_keys, of_values = (
        _heads_back(x, like.shape).astype(like.dtype)
        for x, like in zip(found, (queries, keys, values), strict=True)
    )
    return of_queries, of_keys, of_values


_blockwise.defvjp(_forward, _backward)


def _scores(
    query: Float[Array, "q d"], key: Float[Array, "k d"], kept: Bool[Array, " k"]
) -> Float[Array, "q k"]:
    exact = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.matmul(query, key.T, preferred_element_type=exact) * query.shape[-1] ** -0.5
    return jnp.where(kept, scores, -jnp.inf)


def _sizes(queries: Array, keys: Array, blocks: Blocks) -> tuple[int, int]:
    return min(blocks.queries, queries.shape[1]), min(blocks.keys, keys.shape[1])


def _real(count: int, size: int) -> Bool[Array, "K k"]:
    """Tell keys from what fills up the last block."""
    return (jnp.arange(-(-count // size) * size) < count).reshape(-1, size)


def _heads_first(x: Float[Array, "B n h d"], size: int) -> Float[Array, "Bh N size d"]:
    """Give every head of every example its own row of blocks, the last filled up with zeros."""
    folded = x.transpose(0, 2, 1, 3).reshape(-1, x.shape[1], x.shape[3])
    filled = jnp.pad(folded, ((0, 0), (0, -x.shape[1] % size), (0, 0)))
    return filled.reshape(folded.shape[0], -1, size, x.shape[3])


def _heads_back(x: Float[Array, "Bh N size d"], shape: tuple[int, ...]) -> Float[Array, "B n h d"]:
    """Undo `_heads_first`."""
    batch, count, heads, width = shape
    return x.reshape(batch, heads, -1, width)[:, :, :count].transpose(0, 2, 1, 3)
