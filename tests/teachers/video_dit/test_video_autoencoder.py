"""The video autoencoder: its rearrangements, its convolutions as compiled, what it can keep."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage

from jaxavatar.teachers.video_dit.autoencoder import Autoencoder, Level, _fold, _unfold
from jaxavatar.teachers.video_dit.config import AutoencoderConfig


def test_folding_is_undone_and_keeps_neighbours_together():
    clip = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 8, 3)), jnp.float32)
    for pair in (1, 2):
        folded = _fold(clip, pair)
        assert folded.shape == (2, 4 // pair, 3, 4, 12 * pair)
        np.testing.assert_array_equal(_unfold(folded, pair), clip)
        cell = np.asarray(clip)[1, :pair, 2:4, 4:6]
        np.testing.assert_array_equal(np.sort(folded[1, 0, 1, 2]), np.sort(cell.ravel()))


def test_a_compiled_level_is_what_scipy_computes():
    """XLA on CPUs has miscompiled convolutions: compare jit with float64."""
    rng = np.random.default_rng(1)
    clip = rng.normal(size=(1, 3, 6, 5, 4))
    level = Level(4)
    params = level.init(jax.random.key(0), jnp.asarray(clip, jnp.float32))["params"]
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    p = jax.tree.map(lambda x: np.asarray(x, float), params)
    base = clip @ p["in"]["kernel"] + p["in"]["bias"]
    hidden = base / np.sqrt((base**2).mean(-1, keepdims=True) + 1e-6) * p["norm"]["scale"]

    def convolve(values, name):
        kernel = p[name]["kernel"]
        out = np.zeros((*values.shape[:-1], kernel.shape[-1]))
        for i in range(kernel.shape[-2]):
            for o in range(kernel.shape[-1]):
                out[0, ..., o] += scipy.ndimage.correlate(
                    values[0, ..., i], kernel[..., i, o], mode="constant"
                )
        return out + p[name]["bias"]

    hidden = convolve(hidden, "space")
    hidden = hidden / (1 + np.exp(-hidden))
    expected = base + convolve(hidden, "time") + hidden @ p["out"]["kernel"] + p["out"]["bias"]

    def apply(x) -> Any:
        return level.apply({"params": params}, x)

    given = jnp.asarray(clip, jnp.float32)
    np.testing.assert_allclose(jax.jit(apply)(given), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(apply(given), expected, rtol=1e-4, atol=1e-4)


def test_it_learns_to_keep_pictures():
    """Smooth clips through 16 times fewer numbers, better than their mean by far."""
    coder = Autoencoder(AutoencoderConfig(widths=(8, 16, 16), temporal=1, channels=6))
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(3, 4, 16, 16, 3))
    clips = scipy.ndimage.gaussian_filter(noise, (0, 1.5, 3, 3, 0), mode="wrap")
    clips = jnp.asarray(0.5 + 0.2 * clips / clips.std(), jnp.float32)
    params = coder.init(jax.random.key(0), clips)["params"]
    optimiser = optax.adam(5e-3)

    @jax.jit
    def step(params, memory):
        def loss(params):
            kept: Any = coder.apply({"params": params}, clips)
            return jnp.mean((kept - clips) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, memory = optimiser.update(gradient, memory)
        return optax.apply_updates(params, updates), memory, value

    memory, value = optimiser.init(params), jnp.inf
    for _ in range(150):
        params, memory, value = step(params, memory)
    assert float(value) < 0.1 * float(clips.var())
