"""Text to speech and its timed sounds."""

import itertools
import shutil

import numpy as np
import pytest

from jaxavatar.errors import InputError
from jaxavatar.speech import voice
from jaxavatar.speech.visemes import PHONE_SHAPES

# flite's US English phone set (cmu_us_radio), pauses included.
FLITE_PHONES = (
    "aa ae ah ao aw ax axr ay b ch d dh dx eh el em en er ey f g hh hv ih iy jh k l m n ng nx "
    "ow oy p r s sh t th uh uw v w y z zh pau brth h# ssil"
)


def test_every_sound_of_flite_has_a_shape():
    printed = " ".join(f"{phone}:{i}" for i, phone in enumerate(FLITE_PHONES.split(), start=1))
    assert {phone.symbol for phone in voice.parse_phones(printed)} == set(PHONE_SHAPES) - {"OH"}


def test_utterances_follow_each_other():
    phones = voice.parse_phones("pau:0.2 hh:0.25 ay:0.5 \n\npau:0.1 b:0.3\n")
    assert [(p.symbol, p.start) for p in phones] == [
        *(("SIL", 0.0), ("HH", 0.2), ("AY", 0.25), ("SIL", 0.5), ("B", 0.6))
    ]
    assert phones[-1].end == pytest.approx(0.8)


@pytest.mark.parametrize("name", voice.FLITE_VOICES)
def test_the_times_are_those_of_the_sound(needs_flite, name):
    samples, phones = voice.speak("Stop. Then mama said: go!\n\nA new day.", name)
    assert phones is not None
    assert phones[-1].end == pytest.approx(len(samples) / 16000, abs=0.03)
    assert all(a.end == b.start for a, b in itertools.pairwise(phones))
    level = {True: [], False: []}
    for phone in phones:
        margin = min(0.05, (phone.end - phone.start) / 3)
        piece = samples[int((phone.start + margin) * 16000) : int((phone.end - margin) * 16000)]
        level[phone.symbol == "SIL"].append(np.sqrt(np.mean(piece**2)))
    assert np.median(level[True]) < 0.1 * np.median(level[False])


def test_espeak_gives_no_times():
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    samples, phones = voice.speak("Guten Morgen", "espeak:de")
    assert phones is None
    assert 8000 < len(samples) < 48000
    with pytest.raises(InputError, match="espeak-ng cannot speak"):
        voice.speak("Guten Morgen", "espeak:nonsense")


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("  \n", "slt", "empty"),
        ("...", "slt", "nothing to say"),
        ("hello", "nobody", "unknown voice 'nobody'"),
        ("hello", "espeak:", "unknown voice"),
        ("hello", "espeak:--help", "unknown voice"),
    ],
)
def test_errors(needs_flite, text, name, words):
    with pytest.raises(InputError, match=words):
        voice.speak(text, name)


def test_a_missing_program_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="apt-get install flite"):
        voice.speak("hello")
    with pytest.raises(InputError, match="apt-get install espeak-ng"):
        voice.speak("hello", "espeak:en-us")
