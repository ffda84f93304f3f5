"""Attention: one meaning by every method, and memory that is linear in tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.reconstruction.transformer.attention import Blocks, attend

SHAPES = [(1, 5, 3), (2, 37, 53), (1, 64, 32)]  # examples, queries, keys
BLOCKS = Blocks(queries=16, keys=32)


def tensors(shape, dtype=jnp.float32, spread=1.0):
    batch, n, m = shape
    rng = np.random.default_rng(n)
    sizes = ((batch, count, 2, 8) for count in (n, m, m))
    return [jnp.asarray(spread * rng.normal(size=size), dtype) for size in sizes]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["dense", "blocks"])
def test_matches_numpy(oracle, shape, method):
    q, k, v = tensors(shape)
    actual = attend(q, k, v, method, BLOCKS)
    for b in range(shape[0]):
        rows = [np.asarray(x[b], float).reshape(x.shape[1], -1) for x in (q, k, v)]
        expected = oracle.attention(*rows, heads=2).reshape(q.shape[1:])
        np.testing.assert_allclose(actual[b], expected, atol=2e-6)


def test_large_scores_stay_finite():
    """Scores of thousands: a sum of exponentials without its peak would overflow."""
    q, k, v = tensors((1, 37, 53), spread=100.0)
    actual = attend(q, k, v, "blocks", BLOCKS)
    np.testing.assert_allclose(actual, attend(q, k, v, "dense"), rtol=1e-3, atol=1e-3)
    assert np.isfinite(actual).all()


def test_gradients_agree():
    arguments = tensors((2, 37, 53))
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(2, 37, 2, 8)))

    def total(method):
        return lambda q, k, v: (weight * attend(q, k, v, method, BLOCKS)).sum()

    actual = jax.jit(jax.grad(total("blocks"), (0, 1, 2)))(*arguments)
    expected = jax.jit(jax.grad(total("dense"), (0, 1, 2)))(*arguments)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_half_precision_rounds_only_inputs_and_output():
    q, k, v = tensors((2, 37, 53))
    rounded = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    exact = attend(*[x.astype(jnp.float32) for x in rounded], method="dense")
    for method in ("dense", "blocks"):
        actual = attend(*rounded, method=method, blocks=BLOCKS)
        assert actual.dtype == jnp.bfloat16
        np.testing.assert_allclose(actual.astype(jnp.float32), exact, atol=0.02)


@pytest.mark.parametrize("backward", [False, True])
def test_memory_is_linear(backward):
    """40 000 points: of 124 GB of scores, less than six times inputs and outputs is ever held."""
    shape = jax.ShapeDtypeStruct((1, 44_096, 16, 64), jnp.float32)

    def total(q, k, v):
        return attend(q, k, v).sum()

    program = jax.grad(total, (0, 1, 2)) if backward else attend
    memory = jax.jit(program).lower(shape, shape, shape).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 6 * 4 * np.prod(shape.shape) * 4
