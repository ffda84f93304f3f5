"""Face units of speech, measured as the gap between the lips of the body's template."""

import numpy as np
import pytest

from jaxavatar.body import LANDMARKS, load_template
from jaxavatar.errors import InputError
from jaxavatar.speech import voice
from jaxavatar.speech.visemes import FACE_UNITS, PHONE_SHAPES, face_curves
from jaxavatar.structs import Phone


@pytest.fixture(scope="module")
def lip_gap():
    """Function from curves [T, 52] to the height of the mouth opening in metres [T]."""
    body = load_template()
    assert body.expression_names == FACE_UNITS
    upper, lower = (
        int(body.landmarks[LANDMARKS.index(name)])
        for name in ("upper_lip_inner", "lower_lip_inner")
    )
    directions = np.asarray(body.expression_dirs)[:, :, 1]
    return lambda curves: curves @ (directions[:, upper] - directions[:, lower])


def unit(curves, name):
    return curves[:, FACE_UNITS.index(name)]


def say(*items):
    """Make phones from (symbol, seconds)."""
    ends = np.cumsum([seconds for _, seconds in items])
    starts = [0.0, *ends[:-1]]
    return tuple(Phone(s, a, b) for (s, _), a, b in zip(items, starts, ends, strict=True))


def middle(phone, fps=25):
    return int((phone.start + phone.end) / 2 * fps)


def test_names_are_sorted_and_complete():
    assert len(set(FACE_UNITS)) == 52
    assert list(FACE_UNITS) == sorted(FACE_UNITS)


def test_speech_closes_the_lips_in_every_bilabial_and_opens_them_in_vowels(spoken, lip_gap):
    samples, phones = spoken
    curves = face_curves(phones, -(-len(samples) // 640))
    gap = lip_gap(curves)
    widest = gap.max()
    assert 0.006 < widest < 0.015
    bilabials = [p for p in phones if p.symbol in "PBM"]
    assert len(bilabials) >= 7
    for phone in bilabials:
        around = gap[int(phone.start * 25) : int(phone.end * 25) + 1]
        assert around.min() < 0.05 * widest, phone
        assert around.min() > -0.003, f"{phone}: lips pushed through each other"
    vowels = [p for p in phones if p.symbol in ("AA", "AE", "AY", "EY") and p.end - p.start > 0.1]
    assert len(vowels) >= 4
    for phone in vowels:
        assert gap[int(phone.start * 25) : int(phone.end * 25) + 1].max() > 0.3 * widest, phone


@pytest.mark.parametrize("symbol", ["P", "B", "M"])
@pytest.mark.parametrize("seconds", [0.012, 0.03, 0.05, 0.11])
@pytest.mark.parametrize("start", np.arange(8) * 0.005)
def test_a_bilabial_between_open_vowels_closes_at_any_phase(lip_gap, symbol, seconds, start):
    phones = say(("SIL", 0.3 + start), ("AA", 0.2), (symbol, seconds), ("AA", 0.2), ("SIL", 0.3))
    curves = face_curves(phones, 26)
    gap = lip_gap(curves)
    closed = gap < 0.05 * gap.max()
    first, last = (middle(phones[i]) for i in (1, 3))
    assert closed[first + 1 : last].any()
    shut = closed & (unit(curves, "mouthPressLeft") > 0.19)
    assert shut.sum() >= 1
    assert gap[first] > 0.003
    assert gap[last] > 0.003


def test_the_lower_lip_meets_the_teeth(lip_gap):
    for symbol in ("F", "V"):
        phones = say(("SIL", 0.2), ("AA", 0.2), (symbol, 0.08), ("AA", 0.2), ("SIL", 0.2))
        curves = face_curves(phones, 22)
        frame = middle(phones[2])
        assert unit(curves, "mouthRollLower")[frame] > 0.35
        assert unit(curves, "mouthUpperUpLeft")[frame] > 0.15
        assert lip_gap(curves)[frame] < 0.25 * lip_gap(curves).max()


def test_rounding_and_tongue():
    for symbol, name, least in (
        *(("W", "mouthPucker", 0.5), ("UW", "mouthPucker", 0.45), ("OW", "mouthPucker", 0.35)),
        *(("SH", "mouthFunnel", 0.3), ("TH", "tongueOut", 0.2), ("L", "tongueOut", 0.08)),
        ("IY", "mouthStretchLeft", 0.15),
    ):
        phones = say(("SIL", 0.2), ("AH", 0.12), (symbol, 0.12), ("AH", 0.12), ("SIL", 0.2))
        values = unit(face_curves(phones, 19), name)
        assert values[middle(phones[2])] > least, symbol
        assert values[middle(phones[1])] < 0.7 * values[middle(phones[2])], symbol


def test_rounding_is_anticipated():
    """The consonant before "two"'s vowel is rounded already, the one before "tea"'s is not."""
    two, tea = (
        face_curves(say(("SIL", 0.2), ("T", 0.08), (vowel, 0.15), ("SIL", 0.2)), 16)
        for vowel in ("UW", "IY")
    )
    frame = int(0.24 * 25)
    assert unit(two, "mouthPucker")[frame] > 0.2
    assert unit(tea, "mouthPucker")[frame] < 0.01


def test_pauses_are_exactly_still(spoken):
    phones = say(("SIL", 0.6), ("AA", 0.3), ("SIL", 1.0), ("B", 0.1), ("IY", 0.2), ("SIL", 9.0))
    curves = face_curves(phones, 300)
    time = (np.arange(300) + 0.5) / 25
    quiet = np.ones(300, bool)
    for phone in phones:
        if phone.symbol != "SIL":
            quiet &= (time < phone.start - 0.121) | (time > phone.end + 0.121)
    assert quiet.sum() > 230
    assert not curves[quiet].any()
    assert curves[~quiet].any(1).mean() > 0.9
    assert not face_curves((), 5).any()
    assert not face_curves(say(("SIL", 2.0)), 50).any()


def test_curves_are_smooth_and_in_range(spoken):
    _, phones = spoken
    fine = face_curves(phones, int(phones[-1].end * 400), fps=400)
    assert fine.min() >= 0
    assert fine.max() < 0.9
    # The fastest is a lip seal: 0.065 s from full to none, at most pi / 2 of the mean speed.
    assert np.abs(np.diff(fine, axis=0)).max() * 400 < 25
    # No kinks: the speed changes over some frames of 2.5 ms, never at once.
    assert np.abs(np.diff(fine, 2, axis=0)).max() * 400 < 4


def test_sampling_at_another_rate_agrees(spoken):
    """Frames of 25 fps stand where those of 75 fps do, apart from seals moved to a frame."""
    _, phones = spoken
    count = int(phones[-1].end * 25)
    coarse, fine = face_curves(phones, count), face_curves(phones, 3 * count, fps=75)[1::3]
    assert np.percentile(np.abs(coarse - fine), 95) < 0.01


def test_long_speech_needs_little_memory_and_time():
    phones = say(*([("AA", 0.1), ("B", 0.07), ("S", 0.08), ("UW", 0.12)] * 2000))
    curves = face_curves(phones, int(phones[-1].end * 25))
    part = face_curves(phones[:40], 60)
    np.testing.assert_allclose(curves[:60], part, atol=1e-6)


def test_every_shape_is_reachable_and_unknown_sounds_are_refused():
    for symbol in PHONE_SHAPES:
        face_curves(say((symbol, 0.1)), 3)
    with pytest.raises(InputError, match="'QQ'"):
        face_curves(say(("QQ", 0.1)), 3)
    assert voice.parse_phones("ax:0.1")[0].symbol in PHONE_SHAPES
