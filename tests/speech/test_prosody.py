"""Loudness, pitch, stress and pauses on sounds whose answer is known."""

import numpy as np
import pytest

from jaxavatar.speech import prosody, sound


def buzz(pitch, seconds=1.0, level=0.05):
    """A harmonic tone like a voice, of the given RMS."""
    t = np.arange(int(16000 * seconds)) / 16000
    wave = sum(np.sin(2 * np.pi * pitch * k * t + k) / k for k in range(1, 12))
    return (level * wave / np.sqrt(np.mean(wave**2))).astype(np.float32)


@pytest.mark.parametrize("pitch", [85, 120, 200, 333])
def test_pitch(pitch):
    found = prosody.analyse(buzz(pitch))
    np.testing.assert_allclose(found.pitch[2:-2], pitch, rtol=0.02)
    assert found.voicing[2:-2].min() > 0.9


def test_noise_has_no_pitch(noise):
    found = prosody.analyse(noise)
    assert np.mean(found.pitch == 0) > 0.9
    assert found.energy.min() > 0.5


def test_energy_is_linear_in_decibels():
    energies = [prosody.analyse(buzz(120, level=10 ** (db / 20))).energy[10] for db in (-40, -25)]
    assert energies[1] - energies[0] == pytest.approx(15 / 30, abs=0.01)
    assert energies[0] == pytest.approx(8 / 30, abs=0.01)


def test_pauses_and_silence():
    voice = buzz(120, 0.8)
    clip = np.concatenate([voice, np.zeros(16000, np.float32), voice])
    pause = prosody.analyse(clip).pause
    time = (np.arange(len(pause)) + 0.5) / 25
    inside = (time > 0.8 + 0.2) & (time < 1.8 - 0.2)
    assert pause[inside].all()
    assert not pause[(time < 0.8 + 0.08) | (time > 1.8 - 0.08)].any()
    silent = prosody.analyse(np.zeros(9999, np.float32))
    assert silent.pause.all()
    assert not silent.stress.any()
    assert not silent.pitch.any()
    assert not silent.energy.any()


def test_stress_falls_on_the_loud_syllables():
    gap = np.zeros(3200, np.float32)
    syllables = [buzz(120, 0.2, 10 ** (db / 20)) for db in (-24, -40, -24, -40)]
    window = np.hanning(3200)
    clip = np.concatenate([piece for s in syllables for piece in (s * window, gap)])
    stress = prosody.analyse(clip.astype(np.float32)).stress
    strong = np.flatnonzero(stress > 0.4) / 25
    np.testing.assert_allclose(strong, [0.1, 0.9], atol=0.05)


def test_values_are_local(spoken):
    samples, _ = spoken
    whole = prosody.analyse(samples)
    first = prosody.analyse(samples[: 640 * 60])
    for name in ("energy", "voicing", "pitch", "stress", "pause"):
        np.testing.assert_array_equal(getattr(whole, name)[:48], getattr(first, name)[:48], name)


def test_real_rates(spoken):
    samples, _ = spoken
    found = prosody.analyse(sound.level(samples))
    per_second = (found.stress > 0.2).sum() / (len(samples) / 16000)
    assert 0.4 < per_second < 3
    voiced = found.pitch[found.pitch > 0]
    assert 150 < np.median(voiced) < 230  # a woman's voice
