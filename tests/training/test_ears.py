"""Ears taught by themselves: the loss against numpy, its gradient, and that they learn to hear."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.data.clips import Clip
from jaxavatar.speech import FACE_UNITS
from jaxavatar.structs import BodyPose
from jaxavatar.teachers.video_dit import VideoDiTConfig
from jaxavatar.teachers.video_dit.ears import Ears
from jaxavatar.training.ears import EarsConfig, Hearing, ears_loss, hearing, teach_ears
from jaxavatar.training.state import OptimiserConfig

MODEL = VideoDiTConfig(
    side=8, frames=2, patch=4, width=16, depth=1, heads=2, audio_width=5, reach=1, spread=0.3
)
JAW, BLINK = FACE_UNITS.index("jawOpen"), FACE_UNITS.index("eyeBlinkLeft")


def clip(seed: int, frames: int = 60) -> Clip:
    """The jaw opens with the first feature of the frame before, normalised.

    The eyes blink at random.
    """
    rng = np.random.default_rng(seed)
    audio = rng.normal(size=(frames, MODEL.audio_width)).astype(np.float32)
    units = np.zeros((frames, len(FACE_UNITS)), np.float32)
    plain = (audio - audio.mean(1, keepdims=True)) / audio.std(1, keepdims=True)
    units[1:, JAW] = np.tanh(plain[:-1, 0])
    units[:, BLINK] = rng.random(frames)
    pose = BodyPose(jnp.zeros((frames, 55, 7)), jnp.zeros((frames, 3)), jnp.asarray(units))
    return Clip(audio, np.zeros((1, 1)), np.ones(1, bool), pose, 0, (), "")


@pytest.fixture(scope="module")
def ears():
    audio = jnp.zeros((1, 4, MODEL.audio_width))
    return jax.jit(Ears(MODEL).init, static_argnums=3)(jax.random.key(0), audio, jnp.ones(1), 2)[
        "params"
    ]


def summary_of(ears, audio, frames):
    heard: Any = Ears(MODEL).apply({"params": ears}, audio, jnp.ones(len(audio)), frames)
    return np.asarray(heard[1])


def test_batches_are_a_function_of_the_step():
    clips = [clip(0), clip(1)]
    config = EarsConfig(stretches=3, frames=10)
    batch, again = hearing(config, 1, 7, clips), hearing(config, 1, 7, clips)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    assert batch.audio.shape == (3, 12, 5)
    other = hearing(config, 1, 8, clips)
    assert np.abs(batch.audio - other.audio).max() > 0.1
    # Neither blinks nor anything else that is not of the mouth is asked for.
    mouth = [name for name in FACE_UNITS if name.startswith(("jaw", "mouth", "tongue"))]
    moving = np.flatnonzero(np.ptp(np.asarray(batch.units), axis=(0, 1)) > 0)
    assert [mouth[k] for k in moving] == ["jawOpen"]


def test_loss_and_gradient_in_float64(ears):
    rng = np.random.default_rng(0)
    spread = np.array([0.5, 2.0, 0.0])
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)  # noqa: E731
        params = double({"ears": ears, "map": rng.normal(size=(16, 3)), "bias": rng.normal(size=3)})
        batch = Hearing(*double((rng.normal(size=(2, 6, 5)), rng.normal(size=(2, 4, 3)))))

        @jax.jit
        def loss(step):
            way = jax.tree.map(
                lambda x: x + step * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params
            )
            return ears_loss(MODEL, way, batch, jnp.asarray(spread))

        summary = summary_of(params["ears"], batch.audio, 4)
        said = summary / (1 + np.exp(-summary)) @ np.asarray(params["map"]) + np.asarray(
            params["bias"]
        )
        error = (said - np.asarray(batch.units))[..., :2] / spread[:2]
        assert float(loss(0.0)) == pytest.approx(np.mean(error**2), rel=1e-12)
        slope = float(jax.grad(loss)(0.0))
        numeric = float(loss(1e-5) - loss(-1e-5)) / 2e-5
    assert slope == pytest.approx(numeric, rel=1e-7)


def test_they_learn_to_hear(ears):
    """Speech they have not heard: the map alone explains little of it, taught ears nearly all."""
    optimiser = OptimiserConfig(learning_rate=1e-2, warmup=10, steps=120)
    config = EarsConfig(stretches=8, frames=16, optimiser=optimiser)
    taught, losses = teach_ears(config, MODEL, ears, [clip(seed, frames=500) for seed in range(4)])
    assert np.mean(losses[-20:]) < 0.2 * losses[0]
    fresh = clip(100, frames=300)
    audio = jnp.pad(jnp.asarray(fresh.audio), ((1, 1), (0, 0)))[None]
    explained = []
    for params in (ears, taught):
        summary = summary_of(params, audio, len(fresh))[0]
        seen = np.c_[summary / (1 + np.exp(-summary)), np.ones(len(fresh))]
        jaw = np.asarray(fresh.motion.expression)[:, JAW]
        half = len(fresh) // 2
        weights = np.linalg.lstsq(seen[:half], jaw[:half], rcond=1e-3)[0]
        explained.append(np.corrcoef(seen[half:] @ weights, jaw[half:])[0, 1])
    assert explained[1] > 0.9
    assert explained[1] > explained[0] + 0.2
