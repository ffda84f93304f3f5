"""Clips are reproducible, their parts belong together, and files keep them."""

import shutil
from typing import Any

import numpy as np
import pytest

from jaxavatar import drive
from jaxavatar.data import clips
from jaxavatar.data.corpus import sentence
from jaxavatar.errors import InputError
from jaxavatar.speech.visemes import FACE_UNITS, face_curves
from jaxavatar.structs import FPS, SAMPLE_RATE, BodyPose, Phone

WORDS = ("river", "stone", "window", "garden")
VOICE = "slt"
NOBODY: Any = None  # a listener that is never asked


@pytest.fixture(scope="module")
def listener():
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    try:
        return drive.load_listener()
    except InputError as error:
        pytest.skip(f"no weights here: {error}")


@pytest.fixture(scope="module")
def spoken(listener):
    """A clip of another speaker's (seed 0) and the same once more."""
    return [clips.make_clip(0, (VOICE,), WORDS, listener) for _ in range(2)]


def made_up(frames, seed):
    rng = np.random.default_rng(seed)
    sizes = ((55, 3), (3,), (52,))
    draws: list[Any] = [rng.random((frames, *size)).astype(np.float32) for size in sizes]
    return clips.Clip(
        audio=rng.normal(size=(frames, 6)).astype(np.float16).astype(np.float32),
        text=rng.normal(size=(5, 4)).astype(np.float16).astype(np.float32),
        text_mask=rng.random(5) < 0.6,
        motion=BodyPose(*draws),
        start=int(rng.integers(100)),
        phones=tuple(Phone("AA", 0.1 * i, 0.1 * i + 0.07) for i in range(seed + 1)),
        sentence=f"Number {seed}, if you please.",
    )


def same(a, b):
    assert len(a) == len(b)
    for field in ("audio", "text", "text_mask"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)
    for field in ("rotations", "translation", "expression"):
        np.testing.assert_array_equal(getattr(a.motion, field), getattr(b.motion, field))
    assert (a.start, a.phones, a.sentence) == (b.start, b.phones, b.sentence)


def test_the_same_seed_gives_the_same_clip(spoken):
    same(*spoken)


def test_the_parts_of_a_clip_belong_together(spoken):
    clip = spoken[0]
    assert clip.sentence == sentence(0, WORDS)
    seconds = clip.phones[-1].end
    assert (
        len(clip) == int(np.ceil(round(seconds * SAMPLE_RATE) / 640)) == len(clip.motion.rotations)
    )
    assert 0.4 <= clip.phones[0].end < 0.4 + 1 / FPS
    assert {clip.phones[0].symbol, clip.phones[-1].symbol} == {"SIL"}
    for before, after in zip(clip.phones[:-1], clip.phones[1:], strict=True):
        assert after.start == pytest.approx(before.end, abs=1e-6)
    jaw = FACE_UNITS.index("jawOpen")
    opening = face_curves(clip.phones, len(clip))[:, jaw]
    assert opening.max() > 0.1
    np.testing.assert_array_equal(clip.motion.expression[:, jaw], opening)
    assert 3 < clip.text_mask.sum() < len(clip.text_mask)
    # The speech model hears the sentence begin where the phones say it does.
    quiet = int(clip.phones[0].end * FPS) - 3
    change = np.linalg.norm(np.diff(clip.audio, axis=0), axis=1)
    assert change[quiet + 4 :].mean() > 1.5 * change[:quiet].mean()


def test_files_keep_clips(tmp_path, monkeypatch):
    """Clips come back from the file, which is made once; half precision where it was asked for."""
    made = [made_up(frames, seed) for seed, frames in enumerate((7, 4, 9))]
    calls = []

    def make(seed, voices, words, listener):
        calls.append(seed)
        return made[seed]

    monkeypatch.setattr(clips, "make_clip", make)
    monkeypatch.setattr(clips, "_plain_words", lambda listener: ())
    path = tmp_path / "clips.npz"
    first = clips.make_clips(path, range(3), (VOICE,), NOBODY)
    again = clips.make_clips(path, range(3), (VOICE,), NOBODY)
    assert calls == [0, 1, 2]
    for read in (first, again):
        assert len(read) == 3
        for clip, original in zip(read, made, strict=True):
            same(clip, original)


def test_another_speaker_keeps_sound_and_phones_together():
    """A click stays where its phone says, however fast the recording is played."""
    samples = np.zeros(SAMPLE_RATE, np.float32)
    samples[10_000] = 1.0
    phone = Phone("T", 10_000 / SAMPLE_RATE, 10_100 / SAMPLE_RATE)
    lengths = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        changed, (moved,) = clips._another_speaker(samples, (phone,), rng)
        assert np.abs(changed).argmax() / SAMPLE_RATE == pytest.approx(moved.start, abs=2e-4)
        assert moved.end - moved.start == pytest.approx(
            (phone.end - phone.start) * len(changed) / SAMPLE_RATE, rel=1e-3
        )
        lengths.add(len(changed))
    assert len(lengths) > 3
    assert min(lengths) >= 0.86 * SAMPLE_RATE
    assert max(lengths) <= 1.18 * SAMPLE_RATE


def test_voices_must_come_with_phones(monkeypatch):
    silent = np.zeros(1600, np.float32)
    monkeypatch.setattr(clips.voice, "speak", lambda text, name: (silent, None))
    with pytest.raises(AssertionError, match="timed phones"):
        clips.make_clip(0, (VOICE,), WORDS, NOBODY)
