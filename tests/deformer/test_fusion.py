"""Gated fusion against numpy written from the formulas of the paper's section 3.2."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxavatar.deformer import DriverConfig, chunk, whole
from jaxavatar.deformer.fusion import GatedFusion, masked_mean, positional_encoding

CONFIG = DriverConfig(width=16, heads=2, reach=3, window=1)


@pytest.fixture(scope="module")
def fused(toys):
    window = whole(toys.drive(frames=14, segments=2, start=740), CONFIG.halo)
    params = jax.jit(GatedFusion(CONFIG).init)(jax.random.key(0), window)
    # Biases and scales start at 0 and 1; make them count.
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
    )
    return window, params, jax.jit(GatedFusion(CONFIG).apply)(params, window)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_fusion_matches_the_formulas(fused):
    window, params, actual = fused
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])

    def dense(name, x):
        return x @ weights[name]["kernel"] + weights[name]["bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * weights[name]["scale"] + weights[name]["bias"]

    drive, valid = window.drive, np.asarray(window.valid)
    phase = 2 * np.pi * np.asarray(drive.time, float)[:, None] / np.array(CONFIG.periods)
    encoding = np.concatenate([np.sin(phase), np.cos(phase)], -1)
    speech = np.concatenate([encoding, norm("audio_norm", np.asarray(drive.audio, float))], -1)
    inner = gelu(dense("audio_in", speech)) * valid[:, None]
    tokens = dense("text", norm("text_norm", np.asarray(drive.text, float)))
    for t in range(CONFIG.reach, len(speech) - CONFIG.reach):
        audio = dense("audio_out", inner[t - CONFIG.reach : t + CONFIG.reach + 1].reshape(-1))
        gate = scipy.special.expit(dense("gate_out", gelu(dense("gate_in", speech[t]))))
        segment = int(drive.segment[t])
        pooled = tokens[segment][np.asarray(drive.text_mask)[segment]].mean(0)
        expected = gate * audio + (1 - gate) * pooled
        np.testing.assert_allclose(actual[t - CONFIG.reach], expected, atol=2e-5)


def test_a_segment_without_text_gives_zeros():
    tokens = jnp.full((2, 3, 4), jnp.nan).at[0].set(2.0)
    mask = jnp.array([[True, False, True], [False] * 3])
    np.testing.assert_array_equal(masked_mean(tokens, mask), [[2.0] * 4, [0.0] * 4])


def test_positional_encoding_is_exact_after_a_month_and_forgets_absolute_time():
    time = jnp.array([5, 5 + 200 * 3_000_000])
    early, late = positional_encoding(time, (25, 50, 200))
    np.testing.assert_array_equal(early, late)


def test_chunks_of_speech_give_the_tokens_of_the_whole(toys, fused):
    drive = toys.drive(frames=14, segments=2, start=740)
    _, params, tokens = fused
    halo, near = CONFIG.halo, CONFIG.window
    for start in (0, 5, 10):
        window = chunk(drive, start, 5, halo)
        actual: Any = GatedFusion(CONFIG).apply(params, window)
        # Tokens outside the clip are masked later on, and only those inside need agree.
        inside = np.asarray(window.valid)[CONFIG.reach : -CONFIG.reach]
        expected = tokens[near:-near][start - near + np.flatnonzero(inside)]
        np.testing.assert_allclose(actual[inside], expected, atol=1e-5)


def test_a_chunk_longer_than_a_segment_is_refused(toys):
    with pytest.raises(ValueError, match="at most 742 frames, got 743"):
        chunk(toys.drive(), 0, 743, 4)
