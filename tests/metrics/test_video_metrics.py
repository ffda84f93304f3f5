"""Measures on videos against NumPy, scipy and curves whose figures are known."""

import sys

import numpy as np
import pytest
import scipy.linalg

from jaxavatar.errors import InputError
from jaxavatar.metrics import lips
from jaxavatar.metrics.external import ask_scorer
from jaxavatar.metrics.frechet import frechet_distance, moments
from jaxavatar.metrics.gestures import hand_scores
from jaxavatar.metrics.mouth_video import (
    closures_met,
    jitter,
    mouth_opening,
    silence_activity,
    silent_frames,
)
from jaxavatar.metrics.tracks import Sighting, join


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frechet_distance_is_the_formula_with_scipys_root(rng):
    mix = rng.normal(size=(2, 12, 12))
    a, b = rng.normal(size=(40, 12)) @ mix[0], 0.3 + rng.normal(size=(55, 12)) @ mix[1]
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(np.asarray(scipy.linalg.sqrtm(ca @ cb)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root)
    in_parts = moments(a[:7]) + moments(a[7:])
    assert frechet_distance(in_parts, moments(b)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments(a), moments(a)) == pytest.approx(0, abs=1e-8 * np.trace(ca))


def test_frechet_distance_of_fewer_vectors_than_dimensions(rng):
    """The covariances are singular; in one direction each the distance is known."""
    a = np.zeros((3, 5))
    a[:, 1] = -1, 0, 1
    assert frechet_distance(moments(a), moments(3 * a + 2)) == pytest.approx(5 * 4 + (3 - 1) ** 2)
    with pytest.raises(ValueError, match="two vectors"):
        frechet_distance(moments(a[:1]), moments(a))


@pytest.fixture
def face(rng):
    """Ten frames of a face that moves evenly; the eyes are 2 apart."""
    points = np.broadcast_to(rng.normal(size=(478, 3)), (10, 478, 3)).copy()
    points[:, 33], points[:, 263] = (0, 0, 0), (1.2, 0, 1.6)
    points[:, 13] = (0, 1, 0)
    points[:, 14] = points[:, 13] + [0, 1, 0] * np.arange(10)[:, None]
    return points + np.arange(10)[:, None, None] * [0.5, 0.2, 0.0]


def test_opening_and_jitter_of_a_known_face(face, rng):
    np.testing.assert_allclose(mouth_opening(face), np.arange(10) / 2)
    assert jitter(face) == pytest.approx(0, abs=1e-10)
    noise = rng.normal(size=(10, 1, 3)) * [1, 1, 0]
    bend = np.linalg.norm(noise[:-2] - 2 * noise[1:-1] + noise[2:], axis=-1).mean()
    assert jitter(face + noise) == pytest.approx(100 * bend / 2)
    face[4] = np.nan
    assert jitter(face) == pytest.approx(0, abs=1e-10)
    assert np.isnan(jitter(np.full_like(face, np.nan)))


def test_closures_are_met_in_time():
    true = np.ones(60)
    true[[10, 11, 25, 40]] = 0.1
    true[:2] = 0  # not between open frames
    predicted = 3 * np.ones(60)
    predicted[9], predicted[28], predicted[41] = 0.2, 0.0, 0.6
    assert closures_met(predicted, true) == (1, 3)
    assert closures_met(5 * true, true) == (3, 3)
    assert closures_met(np.full(60, np.nan), true) == (0, 0)


def test_silence_is_away_from_sound(rng):
    samples = np.zeros(30 * 640)
    samples[15 * 640 : 18 * 640] = rng.normal(size=3 * 640)
    samples[:640] = 1e-4
    silent = silent_frames(samples[: 28 * 640], 30)
    np.testing.assert_array_equal(np.flatnonzero(~silent), np.arange(10, 23))
    opening = np.where(silent, 0.25, 1.0) * np.arange(30)
    assert silence_activity(opening, silent) == pytest.approx(0.25)
    assert np.isnan(silence_activity(opening, np.ones(30, bool)))


def test_following_leaves_out_what_is_not_known(rng):
    true = rng.normal(size=80)
    predicted = np.roll(true, 2)
    predicted[20:30] = np.nan
    correlation, late = lips.follow([predicted], [true])
    known = np.isfinite(predicted)
    assert correlation == pytest.approx(np.corrcoef(predicted[known], true[known])[0, 1])
    assert late == 2
    assert lips.follow([0 * true], [true])[0] == 0


def test_hands_are_scored_where_they_are_found(rng):
    hands, scores = rng.normal(size=(8, 2, 21, 2)), rng.uniform(0.5, 1, (8, 2))
    hands[:3, 1], scores[:3, 1] = np.nan, np.nan
    face = np.zeros((478, 3))
    track = join([Sighting(face, h, s, 4.0) for h, s in zip(hands, scores, strict=True)])
    found = hand_scores(track)
    known = np.concatenate([scores[:, 0], scores[3:, 1]])
    assert found.hkc == pytest.approx(known.mean())
    assert found.hkv_confidence == pytest.approx(known.std())
    spread = [np.sqrt(p.var(0).sum(-1)).mean() for p in (hands[:, 0], hands[3:, 1])]
    assert found.hkv_position == pytest.approx(np.mean(spread) / 4)
    assert found.found == pytest.approx(13 / 16)
    none = join([Sighting(face, np.full((2, 21, 2), np.nan), np.full(2, np.nan), np.nan)])
    assert np.isnan(hand_scores(none).hkc) and hand_scores(none).found == 0


def test_an_external_scorer_is_asked(tmp_path):
    program = tmp_path / "scorer.py"
    program.write_text(
        "import json, sys\nvideos = json.load(sys.stdin)['videos']\n"
        "print(json.dumps({'iqa': [float(len(videos) + float(sys.argv[1]))] * 2}))\n"
    )
    command, videos = f"{sys.executable} {program}", [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    assert ask_scorer(f"{command} 1.5", videos) == {"iqa": [3.5, 3.5]}
    for wrong, said in ((f"{command} 9", "1 to 5"), (command, "IndexError"), ("/no/such", "/no")):
        with pytest.raises(InputError, match=said):
            ask_scorer(wrong, videos)
