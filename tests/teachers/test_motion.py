"""Procedural motion: still in pauses, alive in speech, smooth, a function of the sound."""

import shutil

import numpy as np
import pytest

from jaxavatar.body import JOINTS
from jaxavatar.speech import voice
from jaxavatar.speech.visemes import FACE_UNITS, face_curves
from jaxavatar.structs import Phone
from jaxavatar.teachers.motion import procedural_motion

MOUTH = [i for i, name in enumerate(FACE_UNITS) if name.startswith(("jaw", "mouth", "tongue"))]
LIDS = [FACE_UNITS.index(f"eyeBlink{side}") for side in ("Left", "Right")]
BREATHING = [JOINTS.index(name) for name in ("spine2", "neck", "left_collar", "right_collar")]


@pytest.fixture(scope="module")
def clip():
    """Speech, two seconds of silence, speech."""
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    samples, phones = voice.speak("Hello everybody, today is a wonderful day to talk!")
    assert phones is not None
    end = phones[-1].end
    more = tuple(Phone(p.symbol, p.start + end + 2, p.end + end + 2) for p in phones)
    samples = np.pad(samples, (0, max(0, round(end * 16000) - len(samples))))
    pause = np.zeros(32000, np.float32)
    both = (*phones, Phone("SIL", end, end + 2), *more)
    return np.concatenate([samples, pause, samples]), both, end


@pytest.fixture(scope="module")
def motion(clip):
    return procedural_motion(clip[0], clip[1], 0)


def degrees(motion):
    return np.rad2deg(np.linalg.norm(motion.rotations, axis=-1))


def test_shapes_and_ranges(clip, motion):
    count = -(-len(clip[0]) // 640)
    assert motion.rotations.shape == (count, 55, 3)
    assert motion.translation.shape == (count, 3)
    assert motion.expression.shape == (count, 52)
    assert motion.expression.min() >= 0
    assert motion.expression.max() <= 1
    assert degrees(motion).max() < 12
    assert np.abs(motion.translation).max() < 0.01


def test_the_mouth_is_that_of_the_sounds(clip, motion):
    expected = face_curves(clip[1], len(motion.expression))
    np.testing.assert_array_equal(motion.expression[:, MOUTH], expected[:, MOUTH])
    assert not motion.rotations[:, JOINTS.index("jaw")].any()


def test_still_in_silence_but_for_breath_and_blinks(clip, motion):
    time = np.arange(len(motion.expression)) / 25
    quiet = (time > clip[2] + 0.7) & (time < clip[2] + 2 - 0.7)
    assert quiet.sum() > 10
    others = np.delete(np.asarray(motion.expression), LIDS, axis=1)
    assert not others[quiet].any()
    joints = np.delete(degrees(motion), BREATHING, axis=1)
    assert joints[quiet].max() < 1e-4
    assert 0.1 < degrees(motion)[quiet].max() < 1.2
    assert np.abs(motion.translation)[quiet].max() < 1e-6


def test_speech_moves_head_hands_fingers_and_brows(motion):
    moved = dict(zip(JOINTS, degrees(motion).max(0), strict=True))
    for joint in ("head", "left_elbow", "right_elbow", "left_wrist", "right_index1"):
        assert moved[joint] > 1.5, joint
    for joint in ("pelvis", "left_hip", "right_knee", "left_foot"):
        assert moved[joint] == 0, joint
    assert motion.expression[:, FACE_UNITS.index("browInnerUp")].max() > 0.15


def test_left_and_right_mirror_each_other(clip):
    """With arms that lead alike the motion of the sides differs in the signs of y and z."""
    motion = procedural_motion(clip[0], clip[1], 0)
    left = np.asarray(motion.rotations[:, JOINTS.index("left_elbow")])
    right = np.asarray(motion.rotations[:, JOINTS.index("right_elbow")]) * [1, -1, -1]
    assert np.corrcoef(left[:, 1], right[:, 1])[0, 1] > 0.9
    # A lifted left forearm turns about -y (forward) in the T-pose.
    assert left[:, 1].min() < -np.deg2rad(2)


def test_a_blink_where_the_phrase_ends(clip, motion):
    lids = np.asarray(motion.expression[:, LIDS[0]])
    after = int(clip[2] * 25) + np.arange(-12, 12)
    assert lids[after].max() == 1
    assert 0.01 < np.mean(lids > 0.5) < 0.15


def test_smooth_in_time(motion):
    """Below 5 Hz lies nearly all of the joints' motion, and no frame jumps."""
    rotations = np.asarray(motion.rotations).reshape(len(motion.rotations), -1)
    power = (
        np.abs(
            np.fft.rfft(
                (rotations - rotations.mean(0)) * np.hanning(len(rotations))[:, None], axis=0
            )
        )
        ** 2
    )
    frequency = np.fft.rfftfreq(len(rotations), 1 / 25)
    assert power[frequency > 5].sum() < 0.01 * power.sum()
    assert np.rad2deg(np.abs(np.diff(rotations, axis=0))).max() < 4


def test_the_same_inputs_give_the_same_motion_and_seeds_differ(clip, motion):
    again, other = (procedural_motion(clip[0], clip[1], seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.rotations, motion.rotations)
    assert np.abs(other.rotations - motion.rotations).max() > 0.005


def test_the_beats_follow_the_sound(clip, motion):
    """Both halves say the same, so their hands do the same; the drift of the head differs."""
    half = round((clip[2] + 2) * 25)
    assert abs((clip[2] + 2) * 25 - half) < 0.5
    hand = np.asarray(motion.rotations[:, JOINTS.index("left_wrist")])
    first, second = hand[: len(hand) - half], hand[half:]
    a, b = first[: len(second), 2], second[:, 2]
    lags = [np.corrcoef(a[3:-3], np.roll(b, k)[3:-3])[0, 1] for k in (-1, 0, 1)]
    assert max(lags) > 0.95
