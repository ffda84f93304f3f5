"""The teacher behind the protocol: conditions, guidance, the given first frame, eq. 8, sampling."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.losses.score import ScoreConfig, frame_gradient, score_distillation
from jaxavatar.teachers.protocol import Told, VideoTeacher, guided
from jaxavatar.teachers.sampling import sample
from jaxavatar.teachers.wan.config import CONFIGS
from jaxavatar.teachers.wan.teacher import WanTeacher
from jaxavatar.teachers.wan.transformer import WanTransformer

_QUICK: Any = {"xla_backend_optimization_level": 0}  # only compiles sooner
jit = functools.partial(jax.jit, compiler_options=_QUICK)

TINY = CONFIGS["tiny"]
CONFIG = dataclasses.replace(TINY, transformer=dataclasses.replace(TINY.transformer, layers=4))


@pytest.fixture(scope="module")
def teacher() -> VideoTeacher:
    return WanTeacher(CONFIG)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(WanTeacher(CONFIG).init)


@pytest.fixture(scope="module")
def told():
    keys = jax.random.split(jax.random.key(2), 3)
    return Told(
        audio=jax.random.normal(keys[0], (1, 5, 20)),
        reference=jax.random.uniform(keys[1], (1, 32, 16, 3)),
        text=jax.random.normal(keys[2], (1, 7, 16)),
    )


@pytest.fixture(scope="module")
def condition(teacher, params, told):
    return jit(teacher.condition)(params, told)


@pytest.fixture(scope="module")
def predict(teacher):
    return jit(teacher.predict)


NOISY = jax.random.normal(jax.random.key(3), (1, 2, 4, 2, 16))
TAU = jnp.array([0.6])


def test_spec(teacher):
    teacher.spec.check_frames((1, 17, 256, 256, 3))
    for shape in ((1, 16, 256, 256, 3), (1, 17, 256, 248, 3)):
        with pytest.raises(ValueError):
            teacher.spec.check_frames(shape)


def test_condition(teacher, params, told, condition):
    np.testing.assert_array_equal(condition.audio[:, 0], 0)
    np.testing.assert_array_equal(condition.audio[:, 1:], told.audio[:, 1:])
    np.testing.assert_array_equal(condition.text[:, :7], told.text)
    np.testing.assert_array_equal(condition.text[:, 7:], 0)
    assert condition.reference.shape == (1, 4, 2, 16)
    silent = teacher.drop(params, teacher.drop(params, condition, "audio"), "text")
    np.testing.assert_array_equal(silent.audio, 0)
    np.testing.assert_array_equal(silent.text[0], params["null_text"])
    np.testing.assert_array_equal(silent.reference, condition.reference)
    with pytest.raises(ValueError, match="cannot be left out"):
        teacher.drop(params, condition, "reference")


def test_what_does_not_fit_is_refused(teacher, params, told):
    with pytest.raises(ValueError, match="speech features of 7"):
        teacher.condition(params, told.replace(audio=told.audio[..., :7]))
    with pytest.raises(ValueError, match="at most 12 embeddings"):
        teacher.condition(params, told.replace(text=jnp.zeros((1, 13, 16))))


def test_the_first_frame_is_given(predict, params, condition):
    """Its noise does not matter to the others, and its own velocity leads to the reference."""
    velocity = predict(params, NOISY, TAU, condition)
    np.testing.assert_allclose(
        NOISY[:, 0] - TAU * velocity[:, 0], condition.reference, rtol=1e-5, atol=1e-5
    )
    other = predict(params, NOISY.at[:, 0].add(1.0), TAU, condition)
    np.testing.assert_array_equal(other[:, 1:], velocity[:, 1:])

    seen = NOISY.at[:, 0].set(condition.reference)
    reference = jnp.stack([condition.reference] * 2, axis=1)
    free = jnp.stack([jnp.zeros((1, 4, 2, 1)), jnp.ones((1, 4, 2, 1))], axis=1)
    raw = jit(WanTransformer(CONFIG.transformer).apply)(
        {"params": params["transformer"]},
        jnp.concatenate([seen, reference, free], axis=-1),
        jnp.array([600.0]),
        condition.text,
        condition.audio,
    )
    np.testing.assert_allclose(velocity[:, 1:], raw[:, 1:], rtol=1e-5, atol=1e-6)


def test_guidance_for_text_and_audio(teacher, predict, params, condition):
    wordless = condition.replace(text=params["null_text"][None])
    conditions = (
        wordless.replace(audio=jnp.zeros_like(condition.audio)),
        condition.replace(audio=jnp.zeros_like(condition.audio)),
        condition,
    )
    negative, text, full = (predict(params, NOISY, TAU, given) for given in conditions)
    expected = negative + 1.5 * (text - negative) + 4.5 * (full - text)
    found = jit(lambda: guided(teacher, params, NOISY, TAU, condition, (1.5, 4.5)))()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert jnp.abs(full - text).max() > 1e-4 and jnp.abs(text - negative).max() > 1e-4


def test_score_distillation_reaches_the_frames(teacher, params, condition):
    frames = jax.random.uniform(jax.random.key(4), (1, 5, 32, 16, 3))
    gradient = frame_gradient(teacher, params, condition, ScoreConfig(guidance=(1.0, 2.0)))
    loss = jit(jax.value_and_grad(lambda x: score_distillation(gradient, x, jax.random.key(5))))
    value, push = loss(frames)
    assert jnp.isfinite(value) and value > 0
    assert jnp.isfinite(push).all()
    assert (jnp.abs(push).max((0, 2, 3, 4)) > 0).all()


def test_sampling_starts_at_the_reference(teacher, params, condition):
    frames = jit(
        lambda key: sample(teacher, params, key, NOISY.shape, condition, (1.0, 1.0), steps=3)
    )(jax.random.key(6))
    assert frames.shape == (1, 5, 32, 16, 3)
    given = jit(teacher.decode)(params, condition.reference[:, None])
    np.testing.assert_allclose(frames[:, 0], given[:, 0], atol=1e-3)
