"""Resampling, holding and turning of clips."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from jaxavatar.errors import InputError
from jaxavatar.motion import MotionCamera, MotionClip, at_video_rate, lasting
from jaxavatar.motion.clip import check, facing_camera, sampled


def made(frames, fps, seed=0, camera=False):
    rng = np.random.default_rng(seed)
    seen = MotionCamera(rng.uniform(800, 900, (frames, 2)), np.full((frames, 2), 50.0), (100, 100))
    return MotionClip(
        rotations=0.5 * rng.normal(size=(frames, 55, 3)),
        translation=rng.normal(size=(frames, 3)),
        present=np.ones(55, bool),
        fps=fps,
        camera=seen if camera else None,
        messages=(),
    )


@pytest.mark.parametrize("fps", [12.0, 29.97, 30.0, 120.0])
def test_resampling_is_slerp_and_linear(fps):
    clip = made(17, fps, camera=True)
    video = at_video_rate(clip)
    assert video.fps == 25
    times = np.arange(len(video.rotations)) / 25
    assert times[-1] <= clip.seconds + 1e-9 < times[-1] + 1 / 25
    known = np.arange(17) / fps
    for joint in (0, 7, 54):
        path = Slerp(known, Rotation.from_rotvec(clip.rotations[:, joint]))
        expected = path(np.minimum(times, known[-1]))
        error = (Rotation.from_rotvec(video.rotations[:, joint]).inv() * expected).magnitude()
        assert error.max() < 1e-9
    for k in range(3):
        expected = np.interp(times, known, clip.translation[:, k])
        np.testing.assert_allclose(video.translation[:, k], expected, atol=1e-9)
    assert clip.camera is not None and video.camera is not None
    expected = np.interp(times, known, clip.camera.focal[:, 0])
    np.testing.assert_allclose(video.camera.focal[:, 0], expected)


def test_frames_that_fit_are_copied():
    for fps, step in ((25.0, 1), (50.0, 2), (100.0, 4)):
        clip = made(41, fps)
        video = at_video_rate(clip)
        np.testing.assert_allclose(video.rotations, clip.rotations[::step], atol=1e-12)
        np.testing.assert_array_equal(video.translation, clip.translation[::step])
    assert len(at_video_rate(made(1, 30.0)).rotations) == 1


def test_longer_motion_is_cut_and_shorter_held():
    clip = made(26, 25.0)  # 1 s
    cut = lasting(clip, 10)
    np.testing.assert_allclose(cut.rotations, clip.rotations[:10], atol=1e-12)
    assert "is cut" in cut.messages[-1]
    assert lasting(clip, 26).messages == lasting(clip, 25).messages == ()
    # A walk at constant speed for 2 s shows how the time goes.
    walk = dataclasses.replace(
        made(51, 25.0), translation=np.linspace(0, 2, 51)[:, None] * np.ones(3)
    )
    held = lasting(walk, 125)
    assert len(held.rotations) == 125 and "holds its last pose" in held.messages[-1]
    way = held.translation[:, 0]
    np.testing.assert_allclose(way[:26], np.arange(26) / 25, atol=1e-9)  # as it was, for 1 s
    np.testing.assert_allclose(way[75:], 2, atol=1e-9)  # still from 3 s on
    np.testing.assert_allclose(
        held.rotations[76:], np.broadcast_to(walk.rotations[-1], (49, 55, 3)), atol=1e-9
    )
    speed = np.diff(way) * 25
    # It slows down evenly, from 1 to 0 within two seconds, with no step in the speed.
    np.testing.assert_allclose(np.diff(speed)[26:73], -0.5 / 25, atol=1e-9)
    assert np.abs(np.diff(speed)).max() < 0.5 / 25 + 1e-9
    # A motion shorter than its slowing down, and one of a single frame.
    assert lasting(made(3, 30.0), 100).rotations.shape == (100, 55, 3)
    still = lasting(made(1, 30.0), 5)
    np.testing.assert_allclose(still.translation, np.tile(still.translation[:1], (5, 1)))


def test_times_outside_give_the_ends():
    clip = made(4, 10.0)
    ends = sampled(clip, np.array([-1.0, 5.0]))
    np.testing.assert_allclose(ends.rotations, clip.rotations[[0, -1]], atol=1e-12)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
@pytest.mark.parametrize("heading", [0.3, 2.0, -2.5])
def test_person_faces_the_camera_at_first(up, heading):
    up = np.array(up)
    # From SMPL-X's frame (y up, z forward) to the world, turned by the heading.
    level = np.array([1.0, 0, 0])
    forward = Rotation.from_rotvec(heading * up).apply(level)
    upright = np.stack([np.cross(up, forward), up, forward], 1)
    clip = made(6, 25.0, seed=3)
    lean = Rotation.from_rotvec([0.2, 0, 0])  # about the person's own left: bows
    clip.rotations[:, 0] = (Rotation.from_matrix(upright) * lean).as_rotvec()
    turned = facing_camera(clip, up)
    pelvis = Rotation.from_rotvec(turned.rotations[0, 0])
    # Left of the person is right in the picture; upright is -y; front is towards the camera.
    np.testing.assert_allclose(pelvis.apply([1, 0, 0]), [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(pelvis.apply(lean.inv().apply([0, 1, 0])), [0, -1, 0], atol=1e-9)
    np.testing.assert_allclose(pelvis.apply(lean.inv().apply([0, 0, 1])), [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(turned.translation[0], [0, 0, 3])
    # A step to the person's left, forwards, and a jump.
    moved = clip.translation - clip.translation[0]
    seen = turned.translation - turned.translation[0]
    np.testing.assert_allclose(seen[:, 0], moved @ np.cross(up, forward), atol=1e-9)
    np.testing.assert_allclose(seen[:, 1], -moved @ up, atol=1e-9)
    np.testing.assert_allclose(seen[:, 2], -moved @ forward, atol=1e-9)
    np.testing.assert_array_equal(turned.rotations[:, 1:], clip.rotations[:, 1:])


def test_lying_person_is_no_division_by_zero():
    clip = made(2, 25.0)
    clip.rotations[:, 0] = [-np.pi / 2, 0, 0]  # z forward to y up: on the back
    turned = facing_camera(clip, np.array([0.0, 1.0, 0.0]))
    assert np.isfinite(turned.rotations).all() and np.isfinite(turned.translation).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rotations": np.zeros((0, 55, 3)), "translation": np.zeros((0, 3))}, "no frames"),
        ({"fps": 0.0}, "claims 0 frames per second"),
        ({"fps": np.nan}, "claims nan frames per second"),
        ({"translation": np.array([[0.0, 0, 0], [0, np.nan, 0]])}, "not finite in frame 1"),
        ({"rotations": np.full((2, 55, 3), 90.0)}, "axis-angle in radians"),
        ({"translation": np.full((2, 3), 5000.0)}, "metres"),
        ({"camera": MotionCamera(np.zeros((2, 2)), np.ones((2, 2)), (4, 4))}, "focal length"),
    ],
)
def test_what_cannot_be_motion_is_refused(change, said):
    clip = dataclasses.replace(made(2, 25.0), **change)
    with pytest.raises(InputError, match=said):
        check("walk", clip)
