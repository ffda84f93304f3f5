"""Lip scores on made-up curves whose scores are known."""

import numpy as np
import pytest

from jaxavatar.body import LANDMARKS
from jaxavatar.metrics import lips
from jaxavatar.structs import FPS, Phone


def said(*sounds):
    """Phones from (symbol, frames) pairs, one after the other."""
    phones, time = [], 0.0
    for symbol, frames in sounds:
        phones.append(Phone(symbol, time, time + frames / FPS))
        time += frames / FPS
    return tuple(phones)


@pytest.fixture(scope="module")
def speech():
    """Two clips of smooth random opening, all of it vowels."""
    rng = np.random.default_rng(0)
    curves = []
    for frames in (200, 150):
        noise = np.convolve(rng.normal(size=frames + 4), np.hanning(5), "valid")
        curves.append(np.abs(noise))
    return curves, [said(("AA", 200)), said(("AA", 150))]


def test_opening_is_the_distance_of_the_inner_lips():
    points = np.random.default_rng(1).normal(size=(4, len(LANDMARKS), 3))
    upper, lower = LANDMARKS.index("upper_lip_inner"), LANDMARKS.index("lower_lip_inner")
    points[:, lower] = points[:, upper] + np.array([[0, 3, 4]]) * np.arange(4)[:, None]
    np.testing.assert_allclose(lips.opening(points), 5.0 * np.arange(4))


def test_the_teacher_itself_scores_best(speech):
    curves, phones = speech
    scores = lips.score(curves, curves, phones)
    assert scores.correlation == pytest.approx(1.0)
    assert scores.offset_frames == 0


@pytest.mark.parametrize("late", [-4, -1, 2, 5])
def test_a_delayed_copy_has_its_offset_found(speech, late):
    curves, phones = speech
    scores = lips.score([np.roll(c, late) for c in curves], curves, phones)
    assert scores.offset_frames == late
    assert scores.correlation < 0.9


def test_correlation_is_pearsons_over_all_clips_and_ignores_scale(speech):
    curves, phones = speech
    rng = np.random.default_rng(2)
    predicted = [2 * c + rng.normal(size=len(c)) for c in curves]
    expected = np.corrcoef(np.concatenate(predicted), np.concatenate(curves))[0, 1]
    assert lips.score(predicted, curves, phones).correlation == pytest.approx(expected)
    shuffled = [rng.permutation(c) for c in curves]
    assert abs(lips.score(shuffled, curves, phones).correlation) < 0.2


def test_a_mouth_that_never_moves_correlates_with_nothing(speech):
    curves, phones = speech
    assert lips.score([0 * c + 1 for c in curves], curves, phones).correlation == 0


def test_bilabials_are_counted_where_they_close():
    """Of four bilabials two close: one in its span, one less than half a frame after it."""
    phones = said(
        ("AA", 5), ("P", 3), ("AA", 5), ("B", 3), ("AA", 5), ("M", 2.3), ("AA", 4.7), ("P", 3),
        ("T", 3), ("AA", 5),
    )  # fmt: skip
    opened = np.full(40, 1.0)
    opened[6] = 0.14  # in the first P
    opened[14] = 0.16  # in the B, but not closed
    opened[23] = 0.0  # its centre is 0.2 frames after the M
    opened[32] = 0.0  # just after the last P: too late
    scores = lips.score([opened], [opened], [phones])
    assert scores.bilabials_closed == pytest.approx(2 / 4)


def test_the_opening_in_silence_is_relative_to_the_vowels():
    """Frames within 0.2 s of speech do not count as silence."""
    phones = said(("SIL", 20), ("AA", 10), ("SIL", 20))
    opened = np.zeros(50)
    opened[20:30] = 2.0
    opened[16:20] = opened[30:34] = 1.0
    opened[40] = 0.5
    assert lips.score([opened], [opened], [phones]).silence_opening == pytest.approx(0.25)


def test_what_was_not_said_has_no_score(speech):
    curves, phones = speech
    scores = lips.score(curves, curves, phones)
    assert np.isnan(scores.bilabials_closed)
    assert np.isnan(scores.silence_opening)
