"""The Gaussian head: bounds, regions, selections, and eq. 3-5 by hand."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.deformer import DriverConfig
from jaxavatar.deformer.gaussian import GaussianHead, symmetric

CONFIG = DriverConfig(width=12, head_width=16, window=2)
N, SIZES, FEATURES = 40, (15, 10), 9


def run(head, features, driving, valid, selection=None):
    queries = head.queries(features, SIZES)
    return head(queries if selection is None else queries.select(selection), driving, valid)


def apply(config, params, *arguments) -> Any:
    return GaussianHead(config).apply(params, *arguments, method=run)


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(N, FEATURES)), jnp.float32)
    driving = jnp.asarray(rng.normal(size=(5, CONFIG.width)), jnp.float32)
    valid = jnp.array([False, True, True, True, True])
    head = GaussianHead(CONFIG)
    init = jax.jit(functools.partial(head.init, method=run))
    params = init(jax.random.key(0), features, driving, valid)
    # Large outputs, so that bounds matter.
    params = jax.tree.map(
        lambda leaf: leaf + 0.5 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
    )
    return params, features, driving, valid


def test_head_matches_attention_and_gated_mlp_by_hand(example):
    params, features, driving, valid = example
    w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    dense = lambda name, x: x @ w[name]["kernel"] + w[name].get("bias", 0.0)  # noqa: E731
    offsets = jax.jit(functools.partial(apply, CONFIG))(*example)
    x = np.asarray(driving, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    tokens = (x * w["norm"]["scale"] + w["norm"]["bias"])[np.asarray(valid)]
    shift = [CONFIG.face_shift, CONFIG.hand_shift, CONFIG.body_shift]
    for i in range(N):
        region = 0 if i < 15 else 1 if i < 25 else 2
        inner = dense("query_in", np.asarray(features[i], np.float64))
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        query = dense("query_out", inner)
        logits = dense("key", tokens) @ dense("scores", query) / 4.0
        logits += dense("order", query)[np.asarray(valid)]
        mixing = np.exp(logits - logits.max())
        total = query + (mixing / mixing.sum()) @ dense("value", tokens)
        content, gate = np.split(total @ w["gated"][region] + w["gated_bias"][region], 2)
        raw = (content * gate / (1 + np.exp(-gate))) @ w["out"][region] + w["out_bias"][region]
        expected = np.tanh(raw)
        np.testing.assert_allclose(
            offsets.position[i], shift[region] * expected[:3], atol=2e-4 * shift[region]
        )
        np.testing.assert_allclose(
            offsets.opacity[i], CONFIG.opacity_change * expected[9], atol=1e-4
        )
        np.testing.assert_allclose(offsets.color[i], CONFIG.color_change * expected[10:], atol=1e-4)


def test_stretched_covariances_stay_positive_definite(example):
    """Sigma* = (I + dS) Sigma (I + dS)^T for the largest outputs that the bounds admit."""
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T
    stretch = np.eye(3) + CONFIG.stretch * np.asarray(symmetric(jnp.asarray(corners)))
    assert np.linalg.eigvalsh(stretch).min() > 0.35
    params, features, driving, valid = example
    huge = jax.tree.map(lambda leaf: 100 * leaf, params)
    offsets = apply(CONFIG, huge, features, driving, valid)
    assert jnp.abs(offsets.position[:15]).max() <= 0.03 + 1e-7
    assert jnp.abs(offsets.position[15:25]).max() <= 0.02 + 1e-7
    assert jnp.abs(offsets.position[25:]).max() <= 0.01 + 1e-7
    sigma = np.diag([1e-4, 1e-6, 1e-8])
    map_ = np.eye(3) + np.asarray(offsets.stretch, float)
    assert np.linalg.eigvalsh(map_ @ sigma @ np.swapaxes(map_, -1, -2)).min() > 0


def test_a_selection_gives_the_rows_of_the_whole(example):
    index = jnp.array([30, 2, 17, 2, 39])
    everything = apply(CONFIG, *example)
    some = apply(CONFIG, *example, index)
    for actual, expected in zip(jax.tree.leaves(some), jax.tree.leaves(everything), strict=True):
        np.testing.assert_allclose(actual, expected[index], atol=1e-6)


def test_ablations_blank_their_region_only(example):
    full = apply(CONFIG, *example)
    for name, rows in (("face_offsets", slice(0, 15)), ("hand_offsets", slice(15, 25))):
        config = dataclasses.replace(CONFIG, **{name: False})
        cut = apply(config, *example)
        for actual, expected in zip(jax.tree.leaves(cut), jax.tree.leaves(full), strict=True):
            np.testing.assert_array_equal(actual, np.asarray(expected.at[rows].set(0.0)))


def test_frames_outside_the_clip_do_not_matter(example):
    params, features, driving, valid = example
    other = driving.at[0].set(1e3)
    first = apply(CONFIG, params, features, driving, valid)
    second = apply(CONFIG, params, features, other, valid)
    np.testing.assert_array_equal(first.position, second.position)
    assert not np.array_equal(
        first.position,
        apply(CONFIG, params, features, driving.at[2].multiply(-1.0), valid).position,
    )
