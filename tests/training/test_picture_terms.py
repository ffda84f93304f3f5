"""Terms of the objective that look at pictures: which count, their values, where they look."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from jaxavatar import animate, losses
from jaxavatar.deformer import Driver, DriverConfig
from jaxavatar.errors import InputError
from jaxavatar.losses import LossConfig
from jaxavatar.perception import dense, face
from jaxavatar.perception.dense import Keypoints
from jaxavatar.training import (
    OptimiserConfig,
    StepConfig,
    create_state,
    make_optimiser,
    teacher_keypoints,
)
from jaxavatar.training.picture_terms import Judges, aligned, load_judges, make_picture_terms
from jaxavatar.training.step import clip_terms, hear

NOTHING = LossConfig(image=0.0, keypoint=0.0)


@pytest.fixture(scope="module")
def clip(toys):
    batch = toys.batch(clips=1, frames=3, rendered=2, keypoints=4, size=16, count=80)
    clip = jax.tree.map(lambda leaf: leaf[0], batch)
    landmarks = np.random.default_rng(0).integers(0, 30, 478)
    avatar = dataclasses.replace(clip.avatar, landmarks=jnp.asarray(landmarks))
    return dataclasses.replace(clip, avatar=avatar, frames=jnp.array([0, 2]))


def test_terms_look_where_the_face_is(clip):
    driver = Driver(DriverConfig(width=8, heads=1, head_width=4, face_code=2, octaves=2))
    state = create_state(
        driver, make_optimiser(OptimiserConfig()), jax.random.key(0), clip.avatar, clip.drive
    )
    params = state.params

    def terms(images, given, places, key):
        return {"perceptual": jnp.sum(places.face.center), "places": places, "images": images}

    config = StepConfig(loss=NOTHING)
    found = jax.jit(
        lambda params: clip_terms(config, driver, terms, params, clip, jax.random.key(1))
    )(params)
    assert found["images"].shape == (2, 16, 16, 3)

    @jax.jit
    def spots(params):
        code, motion = hear(driver, params, clip)
        shown = motion.frames(clip.frames)
        posed = animate.deform_frames(driver, params, clip.avatar, code, shown).gaussians
        return animate.project_points(posed.means[:, clip.avatar.landmarks], clip.camera)

    for number, points in enumerate(np.asarray(spots(params))):
        expected = face.around(points)
        place = jax.tree.map(lambda leaf, n=number: leaf[n], found["places"].face)
        np.testing.assert_allclose(place.center, expected.center, atol=1e-3)
        np.testing.assert_allclose(place.size, expected.size, rtol=1e-3)


def test_only_what_counts_is_computed(clip):
    images = jnp.clip(clip.images + 0.1, 0, 1)
    where = dense.places(jnp.zeros((2, 478, 2)), jnp.zeros((2, 2, 21, 2)))

    def terms(config):
        return make_picture_terms(config, Judges())(images, clip, where, jax.random.key(0))

    assert terms(NOTHING) == {}
    found = terms(dataclasses.replace(NOTHING, ssim=1.0))
    assert list(found) == ["ssim"]
    expected = 1.0 - losses.ssim(images, clip.images).mean()
    np.testing.assert_allclose(found["ssim"], expected, rtol=1e-6)
    assert load_judges(NOTHING) == Judges()
    with pytest.raises(InputError, match="weights import lpips"):
        load_judges(dataclasses.replace(NOTHING, lpips=1.0))
    with pytest.raises(InputError, match="licence is not stated"):
        load_judges(dataclasses.replace(NOTHING, identity=1.0))


def test_identity_compares_the_faces(clip, monkeypatch):
    where = dense.places(200 * jnp.ones((2, 478, 2)), jnp.zeros((2, 2, 21, 2)))
    center, size = jnp.full((2, 2), 8.0), jnp.full((2, 2), 8.0)
    place = dataclasses.replace(where.face, center=center, size=size, angle=jnp.zeros(2))

    def distance(params, ours, theirs):
        assert ours.shape == theirs.shape == (2, 150, 150, 3)
        return jnp.abs(ours - theirs).max()

    monkeypatch.setattr(losses, "identity", distance)
    terms = make_picture_terms(NOTHING, Judges(identity={}))
    given = dataclasses.replace(clip, masks=None)
    where = dataclasses.replace(where, face=place)
    for pixel, expected in ((8, 0.5), (0, 0.0)):
        images = clip.images.at[:, pixel, pixel].add(0.5)
        found = terms(images, given, where, jax.random.key(0))
        assert list(found) == ["identity"]
        np.testing.assert_allclose(found["identity"], expected, atol=0.02)


def test_alignment_by_hand():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(2, 2, dense.COUNT, 2))
    sure = expit(rng.normal(size=(2, 2, dense.COUNT)))
    config = LossConfig(hand=3.0, keypoint_width=0.5)
    distance = np.sqrt(((ours - theirs) ** 2).sum(-1) + 0.25) - 0.5
    weights = sure[0] * sure[1]
    importance = weights * np.where(dense.IS_HAND, 3.0, 1.0)
    expected = (importance * distance).sum() / weights.sum()
    found = aligned(
        config,
        *(
            Keypoints(jnp.asarray(p), jnp.asarray(w))
            for p, w in zip((ours, theirs), sure, strict=True)
        ),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_keypoints_of_a_teacher_are_kept(monkeypatch, tmp_path):
    calls = []
    nobody: Any = None  # the networks, which `detect` does without

    def detect(detectors, frames, where):
        calls.append(frames.shape)
        return Keypoints(frames[:, 0, :, :2], jnp.ones((*frames.shape[:1], 4)))

    monkeypatch.setattr(teacher_keypoints, "_detect", detect)
    frames = np.random.default_rng(2).random((2, 4, 4, 3), np.float32)
    where = dense.places(jnp.zeros((2, 478, 2)), jnp.zeros((2, 2, 21, 2)))

    def ask(frames):
        return teacher_keypoints.teacher_keypoints(nobody, frames, where, tmp_path / "kept")

    first, second = ask(frames), ask(frames)
    assert len(calls) == 1
    jax.tree.map(np.testing.assert_array_equal, first, second)
    ask(frames[::-1])
    assert len(calls) == 2
    for file in (tmp_path / "kept").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    jax.tree.map(np.testing.assert_array_equal, ask(frames), first)
    assert len(calls) == 3
