"""The causal encoder: piece by piece it computes the same with less memory."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.teachers.wan.causal import PixelNorm
from jaxavatar.teachers.wan.config import CONFIGS
from jaxavatar.teachers.wan.encoder import WanEncoder, encode
from jaxavatar.teachers.wan.init import init_autoencoder, shapes_of

_QUICK: Any = {"xla_backend_optimization_level": 0}  # only compiles sooner
jit = functools.partial(jax.jit, compiler_options=_QUICK)

CONFIG = CONFIGS["tiny"].autoencoder
SMALL = dataclasses.replace(CONFIG, base=2, multipliers=(1, 1, 2), halve_time=(True, True))


def encode_whole(config, params, frames):
    return WanEncoder(config).apply({"params": params}, frames, mutable=["past"])[0]


def encoder_of(config):
    return lambda key: init_autoencoder(config, key)["encoder"]


@pytest.fixture(scope="module")
def exact(random_params):
    """Return float64 parameters, a clip of 17 frames and a direction in its latents."""
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        return (
            random_params(encoder_of(SMALL), np.float64),
            jnp.asarray(random.uniform(size=(1, 17, 16, 16, 3))),
            jnp.asarray(random.normal(size=(1, 5, 4, 4, 16))),
        )


def test_pieces_equal_the_whole_in_value_and_gradient_with_less_memory(exact):
    params, frames, push = exact
    with jax.enable_x64(True):
        results, memory = [], []
        for encoder in (encode, encode_whole):

            def both(params, frames, encoder=encoder):
                def inner(params, frames):
                    latents = encoder(SMALL, params, frames)
                    return jnp.vdot(latents, push), latents

                return jax.value_and_grad(inner, argnums=(0, 1), has_aux=True)(params, frames)

            compiled: Any = jit(both).lower(params, frames).compile()
            memory.append(compiled.memory_analysis().temp_size_in_bytes)
            results.append(jax.device_get(compiled(params, frames)))
        ((_, latents), gradients), ((_, whole), whole_gradients) = results
        assert latents.shape == push.shape and latents.dtype == np.float64
        np.testing.assert_allclose(latents, whole, rtol=1e-12, atol=1e-12)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
            gradients,
            whole_gradients,
        )
        assert memory[0] < 0.8 * memory[1]

        way = jnp.asarray(np.random.default_rng(1).normal(size=frames.shape))
        along = jit(lambda s: jnp.vdot(encode(SMALL, params, frames + s * way), push))
        # Fourth order: pixels with small norms bend the curve.
        near, far = (along(step) - along(-step) for step in (1e-5, 2e-5))
        numeric = (8 * near - far) / 12e-5
        np.testing.assert_allclose(jnp.vdot(gradients[1], way), numeric, rtol=1e-7)


def test_later_frames_do_not_change_earlier_latents(exact):
    params, frames, _ = exact
    with jax.enable_x64(True):
        run = jit(lambda frames: encode(SMALL, params, frames))
        changed = jnp.abs(run(frames) - run(frames.at[:, 9:].add(1.0))).max((0, 2, 3, 4))
        np.testing.assert_array_equal(changed[:3], 0)
        assert changed[3] > 1e-3


def test_black_does_not_break_the_gradient():
    """All channels of a pixel may be zero, and their norm has no derivative there."""
    norm: Any = PixelNorm()
    params = {"params": {"scale": jnp.ones(4)}}
    x = jnp.zeros((1, 1, 2, 2, 4)).at[0, 0, 0, 0].set(1.0)
    gradient = jax.grad(lambda x: (norm.apply(params, x) ** 2).sum())(x)
    assert jnp.isfinite(gradient).all()


def test_size_of_the_released_encoder():
    shapes = shapes_of(encoder_of(CONFIGS["1.3b"].autoencoder))
    assert sum(map(np.prod, shapes.values())) == 53_596_928


@pytest.mark.parametrize("shape", [(1, 4, 16, 16, 3), (1, 5, 16, 12, 3), (1, 0, 8, 8, 3)])
def test_other_clips_are_refused(shape):
    with pytest.raises(ValueError, match="4 n \\+ 1 frames"):
        encode(CONFIG, {}, jnp.zeros(shape))


def test_half_precision_is_close(random_params):
    half = dataclasses.replace(CONFIG, precision="bfloat16")
    frames = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 5, 16, 16, 3)), jnp.float32)
    params = random_params(encoder_of(CONFIG))
    exact, rough = (
        jit(lambda x, config=config: encode(config, params, x))(frames) for config in (CONFIG, half)
    )
    assert rough.dtype == jnp.float32
    change = jnp.linalg.norm(rough - exact) / jnp.linalg.norm(exact - exact.mean())
    assert 1e-5 < change < 0.03
    lowered = jit(lambda x: encode(half, params, x)).lower(frames).as_text()
    convolutions = [line for line in lowered.splitlines() if "stablehlo.convolution" in line]
    assert convolutions and all("bf16" in line for line in convolutions)


def test_initial_parameters_do_not_depend_on_the_clip():
    def shapes(frames):
        made = jax.eval_shape(WanEncoder(CONFIG).init, jax.random.key(0), frames)["params"]
        return jax.tree.map(lambda leaf: leaf.shape, made)

    assert shapes(jnp.zeros((1, 1, 8, 8, 3))) == shapes(jnp.zeros((2, 9, 16, 8, 3)))
