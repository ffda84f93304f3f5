"""The video diffusion transformer: its algebra, its gradients, what it learns, its file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxavatar.data.talking_heads import Talk
from jaxavatar.errors import InputError
from jaxavatar.teachers.protocol import Told, VideoTeacher, guided
from jaxavatar.teachers.schedule import noisy, to_clean
from jaxavatar.teachers.video_dit import (
    CONFIGS,
    AutoencoderConfig,
    VideoDiTConfig,
    VideoDiTTeacher,
    load_params,
    precondition,
    save_params,
)
from jaxavatar.training.state import TrainState
from jaxavatar.training.video_dit import FlowConfig, flow_loss, make_flow_step

TOY = VideoDiTConfig(
    side=8, frames=2, patch=4, width=16, depth=1, heads=2, audio_width=5, reach=1, spread=0.3
)


def talk(config: VideoDiTConfig = TOY, batch: int = 3, seed: int = 0) -> Talk:
    """Grey pictures whose lower half is brighter the larger the first feature."""
    rng = np.random.default_rng(seed)
    audio = rng.normal(size=(batch, config.frames + 2 * config.reach, config.audio_width))
    loud = audio[:, config.reach : config.reach + config.frames, 0]
    still = rng.uniform(0.4, 0.6, (batch, config.side, config.side, 3))
    lower = (np.arange(config.side) >= config.side // 2)[:, None, None]
    frames = still[:, None] + 0.15 * np.tanh(loud)[..., None, None, None] * lower
    mouth = np.broadcast_to(lower[..., 0], (batch, config.side, config.side))
    as_array = lambda value: jnp.asarray(value, jnp.float32)  # noqa: E731
    told = Told(audio=as_array(audio), reference=as_array(still))
    return Talk(as_array(frames), told, as_array(mouth), as_array(loud))


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """These models are so small that compiling them is what takes time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def params():
    return jax.jit(VideoDiTTeacher(TOY).init)(jax.random.key(0))


def test_it_is_a_teacher(params):
    teacher: VideoTeacher = VideoDiTTeacher(TOY)
    teacher.spec.check_frames((1, 2, 8, 8, 3))
    with pytest.raises(ValueError, match="multiples of 8"):
        teacher.spec.check_frames((1, 2, 12, 8, 3))


def test_preconditioning_has_unit_variance():
    """Against samples: the input's variance, and the error of the linear estimate, are 1."""
    rng = np.random.default_rng(0)
    spread, tau = 0.2, np.array([0.05, 0.4, 0.95], np.float32)
    clean = spread * rng.standard_normal((3, 200_000))
    mixed = (1 - tau)[:, None] * clean + tau[:, None] * rng.standard_normal(clean.shape)
    keep, residual, gain = (
        np.asarray(part)[:, 0, 0, 0] for part in precondition(jnp.asarray(tau), spread)
    )
    np.testing.assert_allclose((gain * mixed).std(1), 1.0, rtol=0.01)
    np.testing.assert_allclose(((clean - keep * mixed) / residual).std(1), 1.0, rtol=0.01)


def test_an_untrained_network_is_the_best_linear_estimate(params):
    """Its last layer starts at zero; `predict` and `denoise` say the same thing."""
    teacher, clip = VideoDiTTeacher(TOY), talk()
    condition = teacher.condition(params, clip.told)
    latents = teacher.encode(params, clip.frames)
    noise = jax.random.normal(jax.random.key(1), latents.shape)
    tau = jnp.array([0.1, 0.5, 0.9])
    mixed = noisy(teacher.spec.schedule, latents, noise, tau)
    velocity = jax.jit(teacher.predict)(params, mixed, tau, condition)
    clean = to_clean(teacher.spec.schedule, "velocity", mixed, velocity, tau)
    t = np.asarray(tau, float)[:, None, None, None, None]
    still = 2 * np.asarray(clip.told.reference, float)[:, None] - 1
    keep = (1 - t) * 0.09 / ((1 - t) ** 2 * 0.09 + t**2)
    expected = still + keep * (np.asarray(mixed, float) - (1 - t) * still)
    np.testing.assert_allclose(clean, expected, atol=2e-6)


def test_leaving_out_the_speech_leaves_nothing_of_it(params):
    teacher, clip = VideoDiTTeacher(TOY), talk()
    trained = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape), params
    )
    condition = teacher.condition(trained, clip.told)
    other = dataclasses.replace(condition, audio=condition.audio[::-1])
    mixed = jax.random.normal(jax.random.key(3), (3, *TOY.latent_shape))
    tau = jnp.full(3, 0.6)

    @jax.jit
    def predict(given):
        return teacher.predict(trained, mixed, tau, given)

    def silent(given):
        return teacher.drop(trained, given, "audio")

    assert float(jnp.abs(predict(condition) - predict(other)).max()) > 1e-3
    np.testing.assert_array_equal(predict(silent(condition)), predict(silent(other)))
    twice = jax.jit(lambda: guided(teacher, trained, mixed, tau, condition, (2.0,)))()
    expected = 2.0 * predict(condition) - predict(silent(condition))
    np.testing.assert_allclose(twice, expected, atol=1e-5)
    with pytest.raises(ValueError, match="'audio'"):
        teacher.drop(trained, condition, "text")


def test_gradient_of_the_loss_in_float64(params):
    """Along a random direction, against central differences."""
    teacher = VideoDiTTeacher(dataclasses.replace(TOY, remat=True))
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)  # noqa: E731
        key = jax.random.key(4)
        start, clip = double(params), double(talk())
        leaves, structure = jax.tree.flatten(start)
        keys = jax.random.split(key, len(leaves))
        way = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
        moved = [x + 0.1 * w for x, w in zip(leaves, way, strict=True)]  # off the zeros
        start, way = jax.tree.unflatten(structure, moved), jax.tree.unflatten(structure, way)

        @jax.jit
        def loss(step):
            at = jax.tree.map(lambda x, w: x + step * w, start, way)
            return flow_loss(teacher, at, clip, key, FlowConfig())[0]

        slope = float(jax.grad(loss)(0.0))
        near, far = (float(loss(h) - loss(-h)) / (2 * h) for h in (1e-4, 2e-4))
        numeric = (4 * near - far) / 3
    assert abs(slope) > 1e-3
    # Attention's softmax stays in float32, which limits how small the steps can be.
    assert slope == pytest.approx(numeric, rel=1e-5)


def test_it_learns_to_listen(params):
    """After some steps the right speech explains a clip better than another's, and none."""
    teacher = VideoDiTTeacher(TOY)
    optimiser, config = optax.adam(5e-3), FlowConfig(mouth=2.0)
    step = jax.jit(make_flow_step(teacher, config, optimiser))
    state = TrainState(params, optimiser.init(params), jnp.zeros((), jnp.int32))
    for number in range(200):
        state, metrics = step(state, talk(batch=16, seed=number))
    assert np.isfinite(float(metrics["loss"]))
    fresh = talk(batch=64, seed=10_000)
    latents = teacher.encode(state.params, fresh.frames)
    tau = jnp.full(64, 0.9)
    noise = jax.random.normal(jax.random.key(5), latents.shape)
    mixed = noisy(teacher.spec.schedule, latents, noise, tau)
    right = teacher.condition(state.params, fresh.told)
    wrong = dataclasses.replace(right, audio=right.audio[::-1])
    silent = teacher.drop(state.params, right, "audio")

    def error(condition):
        guess = teacher.denoise(state.params, mixed, tau, condition)
        return float(jnp.mean((guess - latents) ** 2))

    assert error(right) < 0.7 * error(silent)
    assert error(right) < 0.5 * error(wrong)


def test_latents_of_the_autoencoder_pass_through_the_teacher():
    coder = AutoencoderConfig(widths=(4, 6, 8), temporal=1, channels=3)
    config = dataclasses.replace(TOY, side=16, frames=4, patch=2, autoencoder=coder)
    teacher, clip = VideoDiTTeacher(config), talk(config)
    assert config.latent_shape == (2, 4, 4, 3)
    drawn = jax.jit(teacher.init)(jax.random.key(0))

    @jax.jit
    def pass_through(drawn, clip):
        latents = teacher.encode(drawn, clip.frames)
        condition = teacher.condition(drawn, clip.told)
        made = teacher.predict(drawn, latents, jnp.full(3, 0.5), condition)
        return latents, teacher.decode(drawn, latents), condition.reference, made

    latents, decoded, reference, made = pass_through(drawn, clip)
    assert latents.shape == made.shape == (3, 2, 4, 4, 3)
    assert float(jnp.abs(latents).max()) <= 3.0
    assert decoded.shape == clip.frames.shape
    assert reference.shape == (3, 4, 4, 3)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_consistent(name):
    """Shapes only: large models are not built here."""
    config = CONFIGS[name]
    teacher = VideoDiTTeacher(config)
    shapes = jax.eval_shape(teacher.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert (
        {"tiny": 2e6, "small": 8e6, "base": 1.2e8, "large": 9e8}[name]
        < count
        < {"tiny": 4e6, "small": 3e7, "base": 3e8, "large": 2.5e9}[name]
    )
    told = jax.eval_shape(
        lambda: Told(
            audio=jnp.zeros((1, config.frames + 2 * config.reach, config.audio_width)),
            reference=jnp.zeros((1, config.side, config.side, 3)),
        )
    )
    frames = jax.ShapeDtypeStruct((1, config.frames, config.side, config.side, 3), jnp.float32)

    def run(params, frames, told):
        teacher.spec.check_frames(frames.shape)
        condition = teacher.condition(params, told)
        latents = teacher.encode(params, frames)
        return teacher.predict(params, latents, jnp.full(1, 0.5), condition), latents

    made, latents = jax.eval_shape(run, shapes, frames, told)
    assert made.shape == latents.shape == (1, *config.latent_shape)
    assert made.dtype == jnp.float32


def test_file_round_trip(params, tmp_path):
    path = tmp_path / "teacher.npz"
    coder = AutoencoderConfig(widths=(4, 8))
    for config in (TOY, dataclasses.replace(TOY, autoencoder=coder)):
        save_params(path, params, config)
        restored, same = load_params(path)
        assert same == config
        for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.parametrize("content", [None, b"", b"not a zip", "driver"])
def test_files_that_hold_no_teacher_are_refused(tmp_path, content):
    path = tmp_path / "teacher.npz"
    if content == "driver":
        np.savez(path, config=np.array("{}"), weights=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="teacher"):
        load_params(path)


def test_the_packaged_weights_are_of_the_tiny_configuration():
    restored, config = load_params()
    assert config == CONFIGS["tiny"]
    shapes = jax.eval_shape(VideoDiTTeacher(config).init, jax.random.key(0))
    assert jax.tree.map(lambda a: a.shape, restored) == jax.tree.map(lambda a: a.shape, shapes)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(restored))
