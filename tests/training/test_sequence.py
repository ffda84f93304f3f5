"""Training through time: gradients are right, memory tricks change nothing, the teacher teaches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.deformer import Driver, DriverConfig
from jaxavatar.losses import LossConfig
from jaxavatar.training.frames import show
from jaxavatar.training.learned import Rates, personal_optimiser, trainable, untouched
from jaxavatar.training.sequence import (
    Sequence,
    SequenceConfig,
    Watched,
    make_sequence_step,
    sequence_terms,
    stretch_score,
)
from jaxavatar.training.sharding import compile_step, make_mesh, replicated
from jaxavatar.training.state import TrainState
from jaxavatar.training.step import StepConfig, hear, weigh

FRAMES, SIZE = 8, 12
DRIVER = Driver(
    DriverConfig(width=8, heads=2, head_width=8, face_code=4, octaves=2, reach=1, window=1)
)
LOSS = LossConfig(
    image=1.0, keypoint=0.1, shift=0.1, turn=0.1, score=1.0, arap=1.0, temporal=0.1, position=1.0
)
STEP = StepConfig(loss=LOSS, render=(("backend", "reference"),), rematerialise=True)
CONFIG = SequenceConfig(step=STEP, score_moves="everything", steps=10)


def brightness(goal, params, condition, progress):
    """A teacher that wants each stretch as bright as its condition says; its value is exact."""

    def gradient(frames, key):
        value = lambda x: 0.5 * jnp.mean((x - goal - condition) ** 2)  # noqa: E731
        return jax.grad(value)(frames), value(frames)

    return gradient


SCORE = functools.partial(brightness, 0.3)


@pytest.fixture(scope="module")
def item(toys):
    batch = toys.batch(clips=1, frames=FRAMES, rendered=2, keypoints=8, size=SIZE, count=60)
    clip = jax.tree.map(lambda leaf: leaf[0], batch)
    clip = dataclasses.replace(clip, frames=jnp.array([2, FRAMES - 1]))
    viewmats = (
        jnp.tile(clip.camera.viewmat, (FRAMES, 1, 1))
        .at[:, 0, 3]
        .set(jnp.linspace(-0.1, 0.1, FRAMES))
    )
    cameras = dataclasses.replace(
        clip.camera, viewmat=viewmats, K=jnp.tile(clip.camera.K, (FRAMES, 1, 1))
    )
    return Sequence(clip, Watched(cameras, jnp.full(3, 0.2), jnp.array([0.0, 0.4])))


@pytest.fixture(scope="module")
def start(toys, item):
    """Parameters far enough from zero for everything to move."""
    params = toys.driver_params(DRIVER, item.clip.avatar, item.clip.drive)
    return toys.with_noise(untouched(params, item.clip.avatar), 0.1)


def objective(config, learned, item):
    terms = sequence_terms(config, DRIVER, SCORE, None, learned, item, jax.random.key(0))
    return weigh(terms, config.step.loss)[0]


# What follows is NumPy's, which need not compile every operation on every shape of leaf.


def doubled(tree):
    """Cast to float64; to be given to functions compiled within `enable_x64`."""
    return jax.tree.map(
        lambda x: x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x,
        jax.device_get(tree),
    )


def slope(function, point, direction, step=1e-7):
    """Differentiate along a direction by central differences."""
    ahead, behind = (
        jax.tree.map(lambda x, d, s=s: x + s * step * d, point, direction) for s in (1, -1)
    )
    return (float(function(ahead)) - float(function(behind))) / (2 * step)


def along(gradient, direction):
    products = jax.tree.map(np.vdot, jax.device_get(gradient), direction)
    return float(sum(jax.tree.leaves(products)))


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), tree)


def test_the_gradient_of_the_whole_objective(item, start):
    """Against central differences in float64, for the driver and the avatar apart.

    Centres and colours of the avatar are left out: the networks read them, but no gradient passes
    that way.
    """
    with jax.enable_x64(True):
        sequence, learned = doubled(item), doubled(start)
        function = jax.jit(jax.value_and_grad(functools.partial(objective, CONFIG)))
        gradient = jax.device_get(function(learned, sequence)[1])
        # Uphill in most coordinates, so that the slope stands out of the rounding.
        uphill = jax.tree.map(
            lambda g, r: np.sign(g) * (r + 1.0), gradient, random_like(gradient, 3)
        )
        still = jax.tree.map(np.zeros_like, learned)
        unread = {kind: getattr(uphill.avatar, kind) for kind in ("scales", "opacities")}
        for direction in (
            dataclasses.replace(still, driver=uphill.driver),
            dataclasses.replace(still, avatar=dataclasses.replace(still.avatar, **unread)),
        ):
            expected = slope(lambda point: function(point, sequence)[0], learned, direction)
            assert abs(expected) > 1e-3
            assert along(gradient, direction) == pytest.approx(expected, rel=1e-4)


def test_an_early_sound_moves_a_late_frame(item, start):
    """The only way from the first sounds to the last frame is the integration of twists."""
    with jax.enable_x64(True):
        sequence, learned = doubled(item), doubled(start)
        weights = np.zeros_like(sequence.clip.keypoint_weights)
        weights[-1] = 1.0
        clip = dataclasses.replace(sequence.clip, images=None, keypoint_weights=weights)

        def heard(audio, learned, clip):
            drive = dataclasses.replace(clip.drive, audio=audio)
            return objective(CONFIG, learned, Sequence(dataclasses.replace(clip, drive=drive)))

        audio = clip.drive.audio
        direction = np.zeros_like(audio)
        direction[:2] = random_like(audio[:2], 4)
        assert FRAMES - 1 - DRIVER.config.halo > 2
        function = jax.jit(jax.value_and_grad(heard))
        gradient = function(audio, learned, clip)[1]
        expected = slope(lambda audio: function(audio, learned, clip)[0], audio, direction)
        assert abs(expected) > 1e-5
        assert along(gradient, direction) == pytest.approx(expected, rel=1e-4)


def test_a_frame_at_a_time_gives_the_same_in_less_memory(item, start):
    """And without the appearance, all but colours and opacities have the same gradient."""
    clip = item.clip
    driver = start.driver
    code, motion = jax.jit(functools.partial(hear, DRIVER))(driver, clip)

    def value(avatar, rematerialise, appearance):
        images, shapes = show(
            *(DRIVER, driver, avatar, code, motion, item.watched.camera, clip.background),
            clip.neighbours,
            rematerialise=rematerialise,
            appearance=appearance,
        )
        return jnp.sum(images**2) + shapes["arap"]

    found, memory = [], []
    for options in ((False, True), (True, False)):
        gradient = jax.grad(
            functools.partial(value, rematerialise=options[0], appearance=options[1]),
            allow_int=True,
        )
        compiled = jax.jit(gradient).lower(clip.avatar).compile()
        found.append(compiled(clip.avatar))
        planned = compiled.memory_analysis()
        assert planned is not None
        memory.append(planned.temp_size_in_bytes)
    for name in ("means", "scales", "quats", "weights"):
        a, b = (np.asarray(getattr(gradient, name)) for gradient in found)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())
    for name in ("colors", "opacities"):
        assert np.any(getattr(found[0], name)) and not np.any(getattr(found[1], name)), name
    assert memory[1] < 0.6 * memory[0], memory


def test_the_score_moves_motion_or_everything(item, start):
    config = dataclasses.replace(CONFIG, score_moves="colours")
    with pytest.raises(ValueError, match="'colours'"):
        jax.eval_shape(functools.partial(objective, config), start, item)


def test_stretches_are_taught_one_by_one():
    """Each by its own condition; the value is their mean, and so is the gradient."""
    images = jnp.asarray(np.random.default_rng(0).random((6, 2, 2, 3)), jnp.float32)
    condition = {"brightness": jnp.array([0.1, 0.5, 0.7])}

    def score(condition):
        assert condition["brightness"].shape == (1,)
        return brightness(0.0, None, condition["brightness"], None)

    def value(images):
        return stretch_score(score, images, condition, jax.random.key(0))

    found, gradient = jax.value_and_grad(value)(images)
    wanted = np.repeat([0.1, 0.5, 0.7], 2)[:, None, None, None]
    assert float(found) == pytest.approx(float(0.5 * np.mean((images - wanted) ** 2)), rel=1e-5)
    np.testing.assert_allclose(gradient, (images - wanted) / images.size, rtol=1e-4, atol=1e-8)
    with pytest.raises(ValueError, match="6 frames cannot be cut into 4"):
        stretch_score(score, images, jnp.zeros(4), jax.random.key(0))


def stacked(*items):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(items))


@pytest.fixture(scope="module")
def moved(item, start):
    """Two steps that train the face rows of the Gaussian head, the joints' memory and colours.

    Compiled for a mesh, of one device.
    """
    rates = Rates(
        driver=1e-2, parts=("gaussian", "rate"), regions=("face",), colors=1e-2, warmup=1, steps=10
    )
    step = StepConfig(loss=dataclasses.replace(LOSS, image=0.0), rematerialise=True)
    config = SequenceConfig(step=step, rates=rates, score_moves="everything", steps=10)
    mesh, optimiser = make_mesh(jax.devices()[:1]), personal_optimiser(rates)
    made = make_sequence_step(config, DRIVER, optimiser, SCORE, mesh=mesh)
    compiled = compile_step(made, mesh, others=[replicated(mesh)])
    other = dataclasses.replace(
        item, clip=dataclasses.replace(item.clip, keypoints=item.clip.keypoints + 1.0)
    )
    batch = stacked(item, other)
    memory = jax.jit(optimiser.init)(start)

    def run(batch, state=None):
        """Take a step, from the start unless told otherwise; the state is consumed."""
        if state is None:
            first = TrainState(start, memory, jnp.zeros((), jnp.int32))
            state = jax.device_put(first, replicated(mesh), may_alias=False)
        return compiled(state, batch, jnp.zeros(3))

    state, first = run(batch)
    state, _ = run(batch, state)
    return config, run, batch, jax.device_get(state), first


def test_what_is_frozen_stays_bit_for_bit(start, moved):
    learned, start = moved[3].params, jax.device_get(start)
    before, after = start.driver["params"], learned.driver["params"]
    for name in before:
        same = jax.tree.map(np.array_equal, before[name], after[name])
        if name in ("gaussian", "rate"):
            assert not all(jax.tree.leaves(same)), name
        else:
            assert all(jax.tree.leaves(same)), name
    for leaf in ("gated", "gated_bias", "out", "out_bias"):
        difference = after["gaussian"][leaf] != before["gaussian"][leaf]
        assert difference[0].any() and not difference[1:].any(), leaf
    for name in ("means", "scales", "opacities"):
        np.testing.assert_array_equal(getattr(learned.avatar, name), getattr(start.avatar, name))
    assert (learned.avatar.colors != start.avatar.colors).any()


def test_metrics_are_the_losses_and_their_sum(moved):
    metrics = moved[4]
    assert set(metrics) == {
        *("keypoint", "shift", "turn", "image", "arap", "position", "stretch", "appearance"),
        *("temporal", "score", "loss", "psnr", "gradient"),
    }
    weights = dataclasses.asdict(moved[0].step.loss)
    expected = sum(weights[name] * float(metrics[name]) for name in metrics if name in weights)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_batch_is_the_mean_of_its_clips(moved):
    _, run, batch, _, metrics = moved
    twice = [jax.tree.map(lambda x, i=i: x[[i, i]], batch) for i in range(2)]
    parts = [run(clips)[1] for clips in twice]
    for name in ("keypoint", "image", "score", "loss"):
        mean = np.mean([float(part[name]) for part in parts])
        assert float(metrics[name]) == pytest.approx(mean, rel=1e-5)


def test_unknown_parts_are_refused(start):
    with pytest.raises(ValueError, match="'gausian'"):
        trainable(start, Rates(parts=("gausian", "motion")))
