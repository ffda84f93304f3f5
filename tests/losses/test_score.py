"""Eq. 8 against closed forms of a Gaussian teacher, frozen residuals and finite differences."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from jaxavatar.losses.score import (
    ScoreConfig,
    frame_gradient,
    residual,
    sample_time,
    score_distillation,
)
from jaxavatar.teachers.analytic import AnalyticTeacher, KnownClips
from jaxavatar.teachers.protocol import TeacherSpec, Told, guided
from jaxavatar.teachers.sampling import sample
from jaxavatar.teachers.schedule import Schedule, noisy, shift_time, to_clean, to_noise

CLIP = (2, 2, 3, 3)  # [T, H, W, 3]
FLOW, COSINE = Schedule("flow"), Schedule("cosine")
SPECS = [
    TeacherSpec(schedule=FLOW, prediction="velocity"),
    TeacherSpec(schedule=FLOW, prediction="noise"),
    TeacherSpec(schedule=FLOW, prediction="clean"),
    TeacherSpec(schedule=COSINE, prediction="noise"),
    TeacherSpec(schedule=COSINE, prediction="rotated"),
    TeacherSpec(schedule=COSINE, prediction="clean"),
]
ANY_SPEC = pytest.mark.parametrize(
    "spec", SPECS, ids=lambda spec: f"{spec.schedule.kind}-{spec.prediction}"
)
WEIGHTS = ("paper", "variance", "velocity", "clean")
PLAIN = ScoreConfig(guidance=(1.0,))

value_and_grad = jax.jit(jax.value_and_grad(score_distillation, argnums=1), static_argnums=0)


def levels(spec, tau):
    if spec.schedule.kind == "flow":
        return 1 - tau, tau
    return np.cos(np.pi * tau / 2), np.sin(np.pi * tau / 2)


def known(rng, count=1):
    """Clips with sounds that differ by far more than the teacher's kernel."""
    audio = np.zeros((count, CLIP[0], 4)) + np.arange(count)[:, None, None]
    return KnownClips(jnp.array(rng.uniform(0.3, 0.7, (count, *CLIP))), jnp.array(audio))


def told(params, which):
    reference = params.frames[jnp.array(which), 0]
    return Told(params.audio[jnp.array(which)], reference)


class Curved(AnalyticTeacher):
    """Its encoder is not linear and mixes pixels."""

    def encode(self, params, frames):
        return jnp.tanh(frames + 0.5 * jnp.roll(frames, 1, axis=3) ** 2)


# --- schedules and predictions


@ANY_SPEC
def test_predictions_are_one_thing_said_differently(spec, rng, x64):
    z, eps = rng.normal(size=(2, 5, *CLIP))
    tau = np.array([0.02, 0.3, 0.5, 0.8, 0.98])
    alpha, sigma = (level.reshape(-1, 1, 1, 1, 1) for level in levels(spec, tau))
    mixed = alpha * z + sigma * eps
    np.testing.assert_allclose(
        noisy(spec.schedule, jnp.array(z), jnp.array(eps), jnp.array(tau)), mixed, atol=1e-14
    )
    output = {
        "velocity": eps - z,
        "noise": eps,
        "clean": z,
        "rotated": alpha * eps - sigma * z,
    }[spec.prediction]
    given = (spec.schedule, spec.prediction, *map(jnp.array, (mixed, output, tau)))
    np.testing.assert_allclose(to_noise(*given), eps, atol=1e-12)
    np.testing.assert_allclose(to_clean(*given), z, atol=1e-12)


def test_predictions_that_a_schedule_does_not_know():
    one = jnp.ones((1, 2))
    wrong: list[tuple[Schedule, Any]] = [
        (COSINE, "velocity"),
        (FLOW, "rotated"),
        (FLOW, "score"),
    ]
    for schedule, prediction in wrong:
        for convert in (to_noise, to_clean):
            with pytest.raises(ValueError, match=f"{prediction}.*{schedule.kind}"):
                convert(schedule, prediction, one, one, jnp.array([0.5]))


def test_shift_moves_the_log_odds_of_time():
    tau = np.linspace(0.01, 0.99, 50)
    shifted = np.array(shift_time(jnp.array(tau), 5.0), float)
    odds = np.log(shifted / (1 - shifted)) - np.log(tau / (1 - tau))
    np.testing.assert_allclose(odds, np.log(5.0), atol=1e-4)
    np.testing.assert_array_equal(shift_time(jnp.array([0.0, 1.0]), 5.0), [0.0, 1.0])


# --- guidance


@dataclasses.dataclass(frozen=True)
class Counting(AnalyticTeacher):
    """A teacher with two conditions, of which each subset has its own prediction."""

    spec: TeacherSpec = dataclasses.field(
        default_factory=lambda: TeacherSpec(drops=("text", "audio"))
    )
    asked: list = dataclasses.field(default_factory=list)

    def drop(self, params: Any, condition: Any, name):
        return condition - {name}

    def predict(self, params: Any, noisy, tau, condition: Any):
        self.asked.append(condition)
        return params[condition] + noisy


def test_guidance_telescopes(rng):
    full, text, none = frozenset(("text", "audio")), frozenset(("text",)), frozenset()
    v = {key: jnp.array(rng.normal(size=(1, 3))) for key in (full, text, none)}
    tau, mixed = jnp.array([0.5]), jnp.ones((1, 3))
    for scales in ((2.0, 3.0), (1.0, 1.0), (0.0, 4.0), (3.0, 0.0), (1.0, 2.0), (2.0, 2.0)):
        teacher = Counting()
        actual = guided(teacher, v, mixed, tau, full, scales)
        expected = 1 + v[none] + scales[0] * (v[text] - v[none]) + scales[1] * (v[full] - v[text])
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        needed = {full: scales[1] != 0, text: scales[0] != scales[1], none: scales[0] != 1}
        assert sorted(map(len, teacher.asked)) == sorted(len(k) for k, is_ in needed.items() if is_)
    with pytest.raises(ValueError, match=r"one guidance scale for each of \('text', 'audio'\)"):
        guided(Counting(), v, mixed, tau, full, (2.0,))


# --- the residual


@ANY_SPEC
def test_residual_of_a_gaussian_teacher(spec, rng, x64):
    """It is affine in the noise: the mean over eps and -eps is the expectation, exactly.

    E[eps_hat - eps] = alpha sigma (z - c) / (alpha^2 s^2 + sigma^2).
    """
    teacher, params = AnalyticTeacher(spec, spread=0.4), known(rng)
    z, eps = map(jnp.array, rng.normal(size=(2, 3, *CLIP)))
    tau = np.array([0.1, 0.5, 0.95])
    condition = jnp.zeros((3, 1))
    alpha, sigma = (level.reshape(-1, 1, 1, 1, 1) for level in levels(spec, tau))
    apart = np.asarray(z) - (2 * np.asarray(params.frames) - 1)
    expected = alpha * sigma * apart / (alpha**2 * 0.4**2 + sigma**2)
    factors = (alpha, alpha * sigma**2, 1 / alpha, sigma / alpha)
    for weight, factor in zip(WEIGHTS, factors, strict=True):
        config = dataclasses.replace(PLAIN, weight=weight)
        both = [
            residual(teacher, params, z, condition, jnp.array(tau), sign * eps, config)
            for sign in (1.0, -1.0)
        ]
        np.testing.assert_allclose((both[0] + both[1]) / 2, factor * expected, rtol=1e-9)
        assert np.abs(both[0] - both[1]).max() > 0.01


def test_weights_in_terms_of_velocity(rng, x64):
    teacher, params = AnalyticTeacher(spread=0.4), known(rng)
    z, eps = map(jnp.array, rng.normal(size=(2, 2, *CLIP)))
    tau, condition = jnp.array([0.2, 0.7]), jnp.zeros((2, 1))
    s = tau.reshape(2, 1, 1, 1, 1)
    mixed = (1 - s) * z + s * eps
    error = teacher.predict(params, mixed, tau, condition) - (eps - z)
    factors = ((1 - s) ** 2, (1 - s) ** 2 * s**2, 1.0, s)
    for weight, factor in zip(WEIGHTS, factors, strict=True):
        config = dataclasses.replace(PLAIN, weight=weight)
        actual = residual(teacher, params, z, condition, tau, eps, config)
        np.testing.assert_allclose(actual, factor * error, rtol=1e-9)
    clean = to_clean(FLOW, "velocity", mixed, error + eps - z, tau)
    actual = residual(teacher, params, z, condition, tau, eps, PLAIN)
    np.testing.assert_allclose(actual, z - clean, rtol=1e-9, atol=1e-12)
    unknown = dataclasses.replace(PLAIN, weight="best")
    with pytest.raises(ValueError, match="'best'; known: paper, variance, velocity, clean"):
        residual(teacher, params, z, condition, tau, eps, unknown)


def test_posterior_of_several_clips(rng, x64):
    """Against Bayes' rule, clip by clip in numpy."""
    teacher, params = AnalyticTeacher(SPECS[2], spread=0.3, kernel=1.0), known(rng, 3)
    z_tau, tau = map(jnp.array, (rng.normal(size=(2, *CLIP)), [0.3, 0.9]))
    condition = teacher.condition(params, told(params, (0, 2)))
    actual = teacher.predict(params, z_tau, tau, condition)
    for b, which in enumerate((0, 2)):
        alpha, sigma = 1 - float(tau[b]), float(tau[b])
        variance = alpha**2 * 0.3**2 + sigma**2
        weights, means = [], []
        for k, frames in enumerate(np.asarray(params.frames)):
            apart = np.asarray(z_tau[b]) - alpha * (2 * frames - 1)
            prior = np.exp(-0.5 * (k - which) ** 2)
            weights.append(prior * np.exp(-0.5 * (apart**2).sum() / variance))
            means.append(2 * frames - 1 + alpha * 0.3**2 / variance * apart)
        expected = np.average(means, axis=0, weights=weights)
        np.testing.assert_allclose(actual[b], expected, rtol=1e-9, atol=1e-12)
    assert not np.asarray(teacher.drop(params, condition, "audio")).any()
    with pytest.raises(ValueError, match="only 'audio' can be left out, not 'text'"):
        teacher.drop(params, condition, "text")


def test_what_the_sound_alone_asks_for(rng, x64):
    teacher, params = AnalyticTeacher(spread=0.3), known(rng, 2)
    z, eps = map(jnp.array, rng.normal(size=(2, 1, *CLIP)))
    tau, condition = jnp.array([0.6]), teacher.condition(params, told(params, (0,)))
    config = ScoreConfig(without="audio", weight="velocity", guidance=())
    actual = residual(teacher, params, z, condition, tau, eps, config)
    mixed = 0.4 * z + 0.6 * eps
    full, silent = (
        teacher.predict(params, mixed, tau, c) for c in (condition, jnp.zeros_like(condition))
    )
    np.testing.assert_allclose(actual, full - silent, rtol=1e-9, atol=1e-14)
    assert np.abs(actual).max() > 1e-3


def test_normalised_and_clipped_residuals(rng):
    class Spiky(Curved):
        def predict(self, params, noisy, tau, condition):
            return noisy.at[:, 0, 0, 0, 0].set(1e6)

    params, tau = known(rng), jnp.array([0.5, 0.5])
    z = jnp.array(rng.normal(size=(2, *CLIP)) * np.array([1.0, 30.0]).reshape(2, 1, 1, 1, 1))
    for clip, largest in ((10.0, 6.0), (2.0, 2.0)):  # one of 36 entries holds at most 6 rms
        config = dataclasses.replace(PLAIN, normalise=True, clip=clip)
        actual = residual(Spiky(), params, z, jnp.zeros((2, 1)), tau, jnp.zeros_like(z), config)
        np.testing.assert_allclose(jnp.abs(actual).max((1, 2, 3, 4)), largest, rtol=1e-3)


# --- the gradient at the frames


def frozen_residual(teacher, params, frames, condition, key, config):
    """The residual that `frame_gradient` takes with this key."""
    time_key, noise_key = jax.random.split(key)
    latents = teacher.encode(params, frames)
    tau = sample_time(config, time_key, len(frames), 0.0)
    noise = jax.random.normal(noise_key, latents.shape, latents.dtype)
    return residual(teacher, params, latents, condition, tau, noise, config)


def test_gradient_is_that_of_a_frozen_residual(rng, x64):
    """Finite differences and direct differentiation of 0.5 mean (z - sg(z - r))^2."""
    teacher, params, key = Curved(spread=0.3), known(rng), jax.random.key(3)
    frames, condition = jnp.array(rng.random((2, *CLIP))), jnp.zeros((2, 1))
    push = jax.jit(frozen_residual, static_argnums=(0, 5))(
        teacher, params, frames, condition, key, PLAIN
    )
    target = teacher.encode(params, frames) - push

    @jax.jit
    def frozen(x):
        return 0.5 * jnp.mean((teacher.encode(params, x) - target) ** 2)

    gradient = frame_gradient(teacher, params, condition, PLAIN)
    value, actual = value_and_grad(gradient, frames, key)
    assert float(value) == pytest.approx(float(frozen(frames)), rel=1e-12)
    np.testing.assert_allclose(actual, jax.grad(frozen)(frames), rtol=1e-9, atol=1e-15)
    for _ in range(3):
        direction = jnp.array(rng.normal(size=frames.shape))
        slope = (frozen(frames + 1e-5 * direction) - frozen(frames - 1e-5 * direction)) / 2e-5
        assert float((actual * direction).sum()) == pytest.approx(float(slope), rel=1e-6)


def test_nothing_passes_to_teacher_or_condition(rng):
    frames, condition, key = jnp.array(rng.random((1, *CLIP))), jnp.zeros((1, 1)), jax.random.key(0)

    @jax.jit
    def loss(params, condition):
        gradient = frame_gradient(Curved(), params, condition, PLAIN)
        return score_distillation(gradient, frames, key)

    parts = jax.grad(loss, argnums=(0, 1))(known(rng), condition)
    for part in jax.tree.leaves(parts):
        np.testing.assert_array_equal(part, 0.0)


def test_expected_gradient_over_time_and_noise(rng):
    """The mean over keys against an integral over tau, within 5 standard errors."""
    teacher, params = AnalyticTeacher(spread=0.5), known(rng)
    frames = jnp.array(rng.random((1, *CLIP)))
    config = dataclasses.replace(PLAIN, weight="paper", lowest=0.2, highest=0.9)
    gradient = frame_gradient(teacher, params, jnp.zeros((1, 1)), config)
    draws = jax.jit(jax.vmap(lambda key: gradient(frames, key)[0]))(
        jax.random.split(jax.random.key(1), 4000)
    )

    def slope(tau):
        alpha, sigma = 1 - tau, tau
        return alpha**2 * sigma / (alpha**2 * 0.25 + sigma**2)

    mean = scipy.integrate.quad(slope, 0.2, 0.9)[0] / 0.7
    apart = 2 * (np.asarray(frames, float) - np.asarray(params.frames, float))
    expected = 2 * mean * apart / apart.size  # 2 is dz/dI
    error = np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, axis=0) - expected) < 5 * error).all()
    # All entries share one factor, which is so known far better.
    factor = (np.mean(draws, axis=0) * apart).sum() / (expected * apart).sum()
    assert factor == pytest.approx(1, abs=0.02)


def test_frames_must_fit(rng):
    params, key = known(rng), jax.random.key(0)
    for spec, message in (
        (TeacherSpec(frame_step=4, first_frames=1), r"clips have 4 n \+ 1 frames, got 2"),
        (TeacherSpec(size_multiple=16), "multiples of 16 pixels, got 2 x 3 x 3"),
    ):
        gradient = frame_gradient(AnalyticTeacher(spec), params, jnp.zeros((1, 1)), PLAIN)
        with pytest.raises(ValueError, match=message):
            gradient(jnp.zeros((1, *CLIP)), key)


def test_low_precision_latents(rng):
    class Half(AnalyticTeacher):
        def encode(self, params, frames):
            return (2 * frames - 1).astype(jnp.bfloat16)

    params = known(rng)
    frames = jnp.array(rng.random((1, *CLIP)), jnp.float32)
    gradient = frame_gradient(Half(spread=0), params, jnp.zeros((1, 1)), PLAIN)
    _, actual = value_and_grad(gradient, frames, jax.random.key(0))
    expected = 4 * (frames - params.frames) / frames.size  # z - z_hat, and dz/dI twice
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, atol=0.1 * float(jnp.abs(expected).max()))


def test_nan_counts_as_zero(rng):
    """A clip on which the network overflows gives nothing, and takes nothing from the other."""

    class Broken(AnalyticTeacher):
        def predict(self, params, noisy, tau, condition):
            return super().predict(params, noisy, tau, condition).at[0].set(jnp.nan)

    params, key = known(rng), jax.random.key(0)
    frames = jnp.array(rng.random((2, *CLIP)), jnp.float32)
    config = dataclasses.replace(PLAIN, normalise=True)
    gradient = frame_gradient(Broken(spread=0), params, jnp.zeros((2, 1)), config)
    value, actual = value_and_grad(gradient, frames, key)
    apart = np.asarray(frames[1] - params.frames[0])
    expected = 2 * apart / np.sqrt((apart**2).mean()) / frames.size
    assert float(value) == pytest.approx(0.25, rel=1e-4)
    np.testing.assert_array_equal(actual[0], 0.0)
    np.testing.assert_allclose(actual[1], expected, rtol=1e-3, atol=1e-6)
    nothing = score_distillation(lambda x, key: (x * jnp.nan, jnp.array(jnp.inf)), frames, key)
    assert float(nothing) == 0.0


# --- tau


def test_tau_stays_in_bounds_and_falls():
    config = ScoreConfig(lowest=0.2, highest=0.9, highest_end=0.5)
    for progress, highest in ((0.0, 0.9), (0.5, 0.7), (1.0, 0.5)):
        tau = np.asarray(sample_time(config, jax.random.key(0), 4000, jnp.float32(progress)))
        assert tau.min() >= 0.2 and tau.max() <= highest
        assert tau.min() == pytest.approx(0.2, abs=0.01)
        assert tau.max() == pytest.approx(highest, abs=0.01)
        assert tau.mean() == pytest.approx((0.2 + highest) / 2, abs=0.02)


# --- where it leads


def descend(teacher, params, condition, config, frames, steps, rate, seed=0):
    gradient = frame_gradient(teacher, params, condition, config)

    @jax.jit
    def step(frames, key):
        grad = jax.grad(score_distillation, argnums=1)(gradient, frames, key)
        return frames - rate * frames.size * grad, None

    return jax.lax.scan(step, frames, jax.random.split(jax.random.key(seed), steps))[0]


@pytest.mark.parametrize("weight", ["paper", "clean"])
def test_descent_finds_the_clip(weight, rng):
    """Without spread the noise cancels, and the fixed point is the clip itself."""
    params = known(rng)
    config = dataclasses.replace(PLAIN, weight=weight)
    start = jnp.array(rng.random((1, *CLIP)), jnp.float32)
    rate = {"paper": 0.2, "clean": 0.1}[weight]
    end = descend(AnalyticTeacher(spread=0.0), params, jnp.zeros((1, 1)), config, start, 150, rate)
    np.testing.assert_allclose(end, params.frames, atol=1e-4)


def test_descent_in_noise_finds_the_mean(rng):
    params, start = known(rng), jnp.array(rng.random((1, *CLIP)), jnp.float32)
    teacher = AnalyticTeacher(spread=0.3)
    end = descend(teacher, params, jnp.zeros((1, 1)), PLAIN, start, 3000, 0.005)
    np.testing.assert_allclose(end, params.frames, atol=0.05)
    assert np.abs(start - params.frames).max() > 0.3


def test_descent_follows_the_sound(rng):
    """From one stored clip to the one whose sound is told; guidance leads beyond it."""
    teacher, params = AnalyticTeacher(spread=0.05), known(rng, 2)
    condition = teacher.condition(params, told(params, (1,)))
    way = np.diff(params.frames, axis=0)
    for scale, least, most in ((1.0, 0.97, 1.03), (2.0, 1.05, 2.0)):
        config = ScoreConfig(guidance=(scale,))
        end = descend(teacher, params, condition, config, params.frames[:1], 1000, 0.01)
        progress = (np.asarray(end - params.frames[0]) * way).sum() / (way**2).sum()
        assert least < progress < most


def test_sampler_draws_from_the_gaussian(rng):
    """Mean and deviation of 2000 clips; the latter within Euler's error of so many steps."""
    params = known(rng)
    for shift in (1.0, 3.0):
        teacher = AnalyticTeacher(TeacherSpec(shift=shift), spread=0.2)
        condition, key = jnp.zeros((2000, 1)), jax.random.key(0)
        clips = sample(teacher, params, key, (2000, *CLIP), condition, (1.0,), 500)
        error = 0.1 / np.sqrt(2000)  # frames span half of z
        np.testing.assert_allclose(np.mean(clips, 0), params.frames[0], atol=5 * error)
        assert np.std(clips - params.frames) == pytest.approx(0.1, rel=0.03)
    with pytest.raises(ValueError, match="predict velocities are sampled, not 'noise'"):
        sample(AnalyticTeacher(SPECS[1]), params, jax.random.key(0), (1, *CLIP), None, (1.0,))
