"""The transformer: gradients, precision, rematerialisation, sizes, the adapter."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.teachers.wan.adapter import AudioPack
from jaxavatar.teachers.wan.config import CONFIGS, AudioConfig, AutoencoderConfig, WanConfig
from jaxavatar.teachers.wan.init import init_transformer, shapes_of
from jaxavatar.teachers.wan.rope import rotate, rotations, split
from jaxavatar.teachers.wan.transformer import Block, WanTransformer

_QUICK: Any = {"xla_backend_optimization_level": 0}  # only compiles sooner
jit = functools.partial(jax.jit, compiler_options=_QUICK)

TINY = CONFIGS["tiny"].transformer


@pytest.fixture(scope="module")
def given(oracle):
    inputs = oracle.transformer_inputs()
    return [jnp.asarray(inputs[name]) for name in ("latents", "time", "text", "audio")]


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(functools.partial(init_transformer, TINY))


def test_gradient_of_a_block(random_params):
    random = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, text, code = (
            jnp.asarray(random.normal(size=shape))
            for shape in ((1, 12, 24), (1, 5, 24), (1, 6, 24))
        )
        turns = rotations((3, 2, 2), 12)
        block: Any = Block(TINY)
        made = random_params(lambda key: block.init(key, x, text, code, turns), np.float64)
        push = jnp.asarray(random.normal(size=x.shape))

        def value(made, x, text, code):
            return jnp.vdot(block.apply(made, x, text, code, turns), push)

        point = (made, x, text, code)
        compiled = jit(value)
        gradient = jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*point)
        way = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), point)

        def along(step):
            return compiled(*jax.tree.map(lambda leaf, to: leaf + step * to, point, way))

        numeric = (along(1e-6) - along(-1e-6)) / 2e-6
        slopes = jax.tree.map(jnp.vdot, gradient, way)
        np.testing.assert_allclose(sum(jax.tree.leaves(slopes)), numeric, rtol=1e-7)


def test_rematerialisation_changes_no_gradient(random_params, given):
    config = dataclasses.replace(TINY, layers=2, audio=None)
    made = random_params(functools.partial(init_transformer, config))

    def gradient(config):
        def value(params):
            velocity: Any = WanTransformer(config).apply({"params": params}, *given[:3])
            return (velocity**2).mean()

        return jit(jax.grad(value))

    plain, remat = gradient(config), gradient(dataclasses.replace(config, remat=True))
    assert "optimization_barrier" not in plain.lower(made).as_text()
    assert remat.lower(made).as_text().count("optimization_barrier") >= config.layers
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        plain(made),
        remat(made),
    )


def test_half_precision_rounds_matrix_products_only(params, given):
    half = dataclasses.replace(TINY, precision="bfloat16")
    exact, rough = (
        jit(WanTransformer(config).apply)({"params": params}, *given) for config in (TINY, half)
    )
    assert rough.dtype == jnp.float32
    assert 1e-4 < jnp.linalg.norm(rough - exact) / jnp.linalg.norm(exact) < 0.02
    lowered = jit(WanTransformer(half).apply).lower({"params": params}, *given).as_text()
    products = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    # The time's three layers stay in float32.
    assert sum("bf16" not in line.partition("->")[0] for line in products) == 3
    # Matrices kept in half precision: the same up to one more rounding.
    kept = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim > 1 else leaf, params)
    stored = jit(WanTransformer(half).apply)({"params": kept}, *given)
    assert jnp.linalg.norm(stored - rough) / jnp.linalg.norm(exact) < 0.02


@pytest.mark.parametrize(
    ("name", "count", "adapter"), [("1.3b", 1_419_101_248, 2_085_984), ("14b", None, 4_586_592)]
)
def test_sizes_of_the_released_models(name, count, adapter):
    shapes = shapes_of(functools.partial(init_transformer, CONFIGS[name].transformer))
    heard = sum(np.prod(shape) for path, shape in shapes.items() if path.startswith("audio"))
    assert heard == adapter
    assert len(CONFIGS[name].transformer.heard) == CONFIGS[name].transformer.layers // 2 - 1
    if count is not None:
        assert sum(map(np.prod, shapes.values())) - heard == count


def test_audio_pack_against_its_description():
    config = AudioConfig(features=6, hidden=5)
    random = np.random.default_rng(0)
    features = random.normal(size=(2, 9, 6))
    kernel, bias = random.normal(size=(24, 5)), random.normal(size=5)
    scale, offset = random.normal(size=5), random.normal(size=5)
    expected = np.empty((2, 3, 5))
    for b in range(2):
        frames = [features[b, 0]] * 3 + list(features[b])
        for group in range(3):
            hidden = np.concatenate(frames[4 * group : 4 * group + 4]) @ kernel + bias
            centred = hidden - hidden.mean()
            normed = centred / np.sqrt((centred**2).mean() + 1e-5)
            expected[b, group] = normed * scale + offset
    params = {"pack": {"kernel": kernel, "bias": bias}, "norm": {"scale": scale, "bias": offset}}
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        packed: Any = AudioPack(config).apply({"params": params}, jnp.asarray(features))
        np.testing.assert_allclose(packed, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="4 n \\+ 1 frames"):
        AudioPack(config).init(jax.random.key(0), jnp.zeros((1, 8, 6)))


def test_rotations_against_complex_numbers():
    grid, width = (2, 3, 4), 16
    assert split(128) == (44, 42, 42)
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 24, 2, width))
    expected = np.empty_like(x)
    for n, place in enumerate(np.ndindex(grid)):
        angles = [
            p * 10_000.0 ** (-2 * k / part)
            for p, part in zip(place, split(width), strict=True)
            for k in range(part // 2)
        ]
        turned = (x[0, n, :, 0::2] + 1j * x[0, n, :, 1::2]) * np.exp(1j * np.array(angles))
        expected[0, n, :, 0::2], expected[0, n, :, 1::2] = turned.real, turned.imag
    with jax.enable_x64(True):
        turned = rotate(jnp.asarray(x), *rotations(grid, width))
        np.testing.assert_allclose(turned, expected, rtol=1e-12, atol=1e-14)


def test_audio_and_adapter_go_together(params, given):
    with pytest.raises(ValueError, match="one is missing"):
        WanTransformer(TINY).apply({"params": params}, *given[:3])


def test_adapter_and_autoencoder_agree_on_time():
    with pytest.raises(ValueError, match="groups 4 frames"):
        WanConfig(autoencoder=AutoencoderConfig(halve_time=(False, False, True)))
