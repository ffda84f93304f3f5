"""Batches are functions of seed and step, and everything in them belongs together."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from jaxavatar import animate
from jaxavatar.data.clips import Clip
from jaxavatar.structs import BodyPose, Phone
from jaxavatar.teachers import procedural
from jaxavatar.training.batches import BatchConfig, clip_drive, make_batch, make_cast, stretch

CONFIG = BatchConfig(
    clips=3, frames=12, rendered=2, side=16, face_points=10, other_points=6, lead_in=3, neighbours=4
)


def made_up(seed, frames, start):
    """A clip whose features hold its own frame numbers."""
    rng = np.random.default_rng(seed)
    draws: list[Any] = [
        (a * rng.random((frames, *size))).astype(np.float32)
        for a, size in ((0.2, (55, 3)), (0.02, (3,)), (0.5, (52,)))
    ]
    return Clip(
        audio=np.repeat(np.arange(frames, dtype=np.float32)[:, None] + 1000 * seed, 4, 1),
        text=rng.normal(size=(5, 6)).astype(np.float32),
        text_mask=np.arange(5) < 3,
        motion=BodyPose(*draws),
        start=start,
        phones=(Phone("SIL", 0.0, 0.4), Phone("AA", 0.4, frames / 25)),
        sentence="",
    )


@pytest.fixture(scope="module")
def clips():
    return [made_up(seed, frames, start) for seed, frames, start in ((0, 20, 7), (1, 26, 90))]


@pytest.fixture(scope="module")
def cast(toys):
    return make_cast([toys.avatar(seed=s) for s in range(2)], CONFIG.neighbours)


@pytest.fixture(scope="module")
def batches(clips, cast):
    return [make_batch(CONFIG, 0, step, clips, cast) for step in range(6)]


def source(batch, b, clips):
    """Return the clip of one item, and the number of its first frame within it."""
    clip = clips[int(batch.drive.audio[b, 0, 0]) // 1000]
    return clip, int(batch.drive.time[b, 0]) - clip.start


def test_seed_and_step_decide_the_batch(clips, cast, batches):
    again = make_batch(CONFIG, 0, 4, clips, cast)
    for a, b in zip(jax.tree.leaves(batches[4]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other_seed = make_batch(CONFIG, 1, 4, clips, cast)
    for other in (batches[3], other_seed):
        assert np.abs(other.keypoints - batches[4].keypoints).max() > 1


def test_keypoints_are_where_the_teacher_has_them(clips, batches):
    """Pose the whole avatar by the clip's motion and project it, one item at a time."""
    pose = jax.jit(animate.pose_avatar)
    batch = batches[0]
    for b in range(CONFIG.clips):
        clip, begin = source(batch, b, clips)
        inside = np.clip(begin + np.arange(CONFIG.frames), 0, len(clip) - 1)
        avatar, camera = (
            jax.tree.map(lambda x, b=b: x[b], part) for part in (batch.avatar, batch.camera)
        )
        means = pose(avatar, jax.tree.map(lambda x, i=inside: x[i], clip.motion)).means
        points = np.asarray(means, float)[:, np.asarray(batch.keypoint_index[b])]
        view, K = np.asarray(camera.viewmat, float), np.asarray(camera.K, float)
        seen = points @ view[:3, :3].T + view[:3, 3]
        expected = seen[..., :2] / seen[..., 2:] * K[0, 0] + K[:2, 2]
        np.testing.assert_allclose(batch.keypoints[b], expected, atol=2e-3)


def test_pictures_are_the_teachers_at_the_chosen_frames(clips, batches):
    batch, b = batches[1], 1
    clip, begin = source(batch, b, clips)
    inside = np.clip(begin + np.asarray(batch.frames[b]), 0, len(clip) - 1)
    avatar, camera = (jax.tree.map(lambda x: x[b], part) for part in (batch.avatar, batch.camera))
    motion = jax.tree.map(lambda x: x[inside], clip.motion)
    frames = jax.jit(procedural.render_clip)(avatar, motion, camera, batch.background[b])
    assert batch.images.shape == (3, 2, 16, 16, 3)
    np.testing.assert_allclose(batch.images[b], frames.images, atol=1e-4)
    assert np.ptp(np.asarray(batch.images[b])) > 0.2


def test_speech_and_motion_are_of_the_same_frames(clips):
    clip = clips[1]
    drive, motion, exists = stretch(clip, 22, 8)
    np.testing.assert_array_equal(drive.audio[:, 0] - 1000, [22, 23, 24, 25, 25, 25, 25, 25])
    np.testing.assert_array_equal(drive.time, 90 + np.arange(22, 30))
    np.testing.assert_array_equal(exists, np.arange(8) < 4)
    np.testing.assert_array_equal(
        motion.expression[:5], clip.motion.expression[[22, 23, 24, 25, 25]]
    )
    before, _, exists = stretch(clip, -3, 6)
    np.testing.assert_array_equal(before.audio[:, 0] - 1000, [0, 0, 0, 0, 1, 2])
    np.testing.assert_array_equal(exists, np.arange(6) >= 3)


def test_frames_that_teach_nothing_weigh_nothing(clips, batches):
    """Outside the clip there is no teacher; within, the joints first arrive from the rest pose."""
    begins = []
    for batch in batches:
        weights = np.asarray(batch.keypoint_weights)
        assert weights.shape == batch.keypoints.shape[:-1]
        for b in range(CONFIG.clips):
            clip, begin = source(batch, b, clips)
            frame = begin + np.arange(CONFIG.frames)
            outside = (frame < 0) | (frame >= len(clip))
            assert not weights[b][outside].any()
            if begin > 0:
                assert not weights[b][: CONFIG.lead_in].any()
            taught = ~outside & (np.arange(CONFIG.frames) >= CONFIG.lead_in)
            assert (weights[b][taught] > 0).all()
            assert weights.max() <= 1
            assert (weights[b][np.asarray(batch.frames[b])] > 0).all()
            begins.append(begin)
    assert min(begins) < 0 < max(begins)


def test_keypoints_come_from_every_region(batches):
    for batch in batches:
        for index in np.asarray(batch.keypoint_index):
            assert len(set(index.tolist())) == 16
            assert (np.diff(index) > 0).all()
            counts = np.histogram(index, [0, 60, 90, 200])[0]
            np.testing.assert_array_equal(counts, [10, 3, 3])


def test_people_vary_in_colour_and_place_only(cast, batches):
    batch = batches[2]
    for b in range(CONFIG.clips):
        same = [
            p for p in range(2) if np.array_equal(batch.avatar.weights[b], cast.avatars.weights[p])
        ]
        assert len(same) == 1
        person = jax.tree.map(lambda x, p=same[0]: x[p], cast.avatars)
        np.testing.assert_array_equal(batch.avatar.joints[b], person.joints)
        np.testing.assert_array_equal(batch.neighbours[b], cast.neighbours[same[0]])
        moved = np.asarray(batch.avatar.means[b] - person.means)
        assert 0.5 * CONFIG.place_noise < moved.std() < 2 * CONFIG.place_noise
        assert 0.03 < np.std(batch.avatar.colors[b] - person.colors) < 0.2
        assert 0 <= batch.avatar.colors.min() <= batch.avatar.colors.max() <= 1


def test_pictures_are_close_ups_or_from_the_waist_up(batches):
    """Of 0.32 m or 1 m of the world, from up to 35 degrees to a side, upright."""
    focals = []
    for batch in batches:
        for b in range(CONFIG.clips):
            focals.append(float(batch.camera.K[b, 0, 0]))
            rotation = np.asarray(batch.camera.viewmat[b, :3, :3])
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
            assert rotation[0, 0] > np.cos(np.deg2rad(36))
            np.testing.assert_allclose(rotation[1], [0, 1, 0], atol=1e-6)
    # 16 pixels of a metre at a distance of 2 m, and of 0.32 m.
    assert set(np.round(focals, 3)) == {32.0, 100.0}


def test_a_whole_clip_as_a_driving_signal(clips):
    drive = clip_drive(clips[1])
    np.testing.assert_array_equal(drive.time, 90 + np.arange(26))
    np.testing.assert_array_equal(drive.audio, clips[1].audio)
    assert not drive.segment.any()
    assert drive.text.shape == (1, 5, 6)
    other = clip_drive(dataclasses.replace(clips[1], start=5))
    assert other.time[0] == 5
