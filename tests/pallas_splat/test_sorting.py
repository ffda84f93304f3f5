"""Both paths of sorting and summing, the one for CPU and the one for other devices."""

import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import sorting


@pytest.mark.parametrize(("m", "n_keys"), [(1, 3), (1000, 7), (5000, 20_000)])
@pytest.mark.parametrize("sort", [sorting.sort_by_key, sorting._library_sort])
def test_sort_by_key(m, n_keys, sort):
    keys = np.random.default_rng(0).integers(n_keys, size=m).astype(np.int32)
    order, starts = sort(jnp.asarray(keys), n_keys)
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(starts, np.searchsorted(np.sort(keys), np.arange(n_keys + 1)))


def test_depth_order_is_exact():
    rng = np.random.default_rng(0)
    depth = np.exp(rng.uniform(-30, 30, 3000)).astype(np.float32)
    depth[1000:1500] = depth[:500]  # ties
    depth[1500:2000] = np.nextafter(depth[:500], np.float32(np.inf))
    depth[2000:2100] = np.inf
    order = sorting.depth_order(jnp.asarray(depth))
    np.testing.assert_array_equal(order, np.argsort(depth, kind="stable"))


@pytest.mark.parametrize("n", [1, 64, 1000, 300_000])
def test_exclusive_cumsum(n):
    x = np.random.default_rng(0).integers(100, size=n).astype(np.int32)
    np.testing.assert_array_equal(sorting.exclusive_cumsum(jnp.asarray(x)), np.cumsum(x) - x)


@pytest.mark.parametrize("method", [sorting.segment_sum, sorting._scan_segment_sum])
def test_segment_sum(method):
    rng = np.random.default_rng(0)
    rows = rng.integers(-50, 50, (60, 3)).astype(np.float32)  # sums of integers are exact
    segments = rng.integers(0, 13, 60).astype(np.int32)
    expected = np.zeros((13, 3), np.float32)
    np.add.at(expected, segments, rows)
    actual = method(jnp.asarray(rows), jnp.asarray(segments), 12)
    np.testing.assert_array_equal(actual, expected[:12])  # segment 12 is dropped
