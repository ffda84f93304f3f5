"""Speech features: the grid of windows, streams, shifts, silence."""

import operator

import jax
import numpy as np
import pytest

from jaxavatar.speech import features
from jaxavatar.speech.features import SpeechEncoder
from jaxavatar.speech.whisper import Encoder, WhisperConfig
from jaxavatar.speech.whisper_file import Whisper


@pytest.fixture(scope="module")
def small():
    """A small encoder with random weights: enough for everything that is about windows."""
    config = WhisperConfig(width=12, heads=2, encoder_layers=3, audio_positions=200)
    variables = Encoder(config).init(jax.random.key(0), np.zeros((400, 80), np.float32))
    return SpeechEncoder("small", Whisper(dict(variables["params"]), {}, config))


def cosine(a, b):
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 1), (640, 1), (641, 2), (32000, 50), (32001, 51), (200000, 313)]
)
def test_one_row_per_frame_and_a_stream_agrees(small, samples, frames):
    sound = np.random.default_rng(0).normal(scale=0.05, size=samples).astype(np.float32)
    whole = features.speech_features(small, sound)
    assert whole.shape == (frames, 24)
    assert features.frame_count(samples) == frames
    blocks = np.split(sound, np.sort(np.random.default_rng(1).integers(0, samples, 7)))
    streamed = np.concatenate(list(features.stream_features(small, blocks)))
    np.testing.assert_allclose(streamed, whole, atol=1e-5)


def test_nothing_compiles_again_for_another_length(small):
    features.speech_features(small, np.zeros(1000, np.float32))
    compiled = operator.attrgetter("_cache_size")(features.encode_windows)
    before = compiled()
    for samples in (50, 40000, 400000):
        features.speech_features(small, np.zeros(samples, np.float32))
    assert compiled() == before


def test_a_stream_yields_a_step_one_second_after_its_end(small):
    heard = []

    def microphone():
        for _ in range(40):
            heard.append(0.1)
            yield np.zeros(1600, np.float32)

    stream = features.stream_features(small, microphone())
    assert len(next(stream)) == 50
    assert sum(heard) == pytest.approx(3.1)


def test_a_frame_hears_its_own_window_only(small):
    sound = np.random.default_rng(0).normal(scale=0.05, size=160000).astype(np.float32)
    changed = sound.copy()
    changed[(3 * 50 + 25) * 640 + 200 :] = 0.0
    a, b = (features.speech_features(small, x) for x in (sound, changed))
    np.testing.assert_allclose(a[:150], b[:150], atol=1e-5)
    assert np.abs(a[150:] - b[150:]).max() > 0.01


def test_a_shift_of_the_sound_shifts_the_features(whisper, spoken):
    """Measured for 7 shifts of two voices: mean 0.938 to 0.995, lowest 2 % above 0.89."""
    samples, _ = spoken
    encoder = SpeechEncoder("whisper-tiny.en", whisper)
    still = features.speech_features(encoder, samples)
    for frames in (1, 13, 31, 50):
        moved = features.speech_features(encoder, np.pad(samples, (640 * frames, 0)))[frames:]
        similar = cosine(still, moved)
        if frames % 50 == 0:  # the grid's own period: the same windows
            np.testing.assert_allclose(moved, still, atol=2e-3)
        assert similar.mean() > 0.925
        assert np.percentile(similar, 2) > 0.85


def test_silence_is_steady_and_far_from_speech(whisper, spoken):
    encoder = SpeechEncoder("whisper-tiny.en", whisper)
    silence = features.speech_features(encoder, np.zeros(16000 * 8, np.float32))
    np.testing.assert_allclose(silence[:50], silence[50:100], atol=1e-4)
    steady = np.sqrt(((silence - silence.mean(0)) ** 2).mean())
    speech = features.speech_features(encoder, spoken[0])
    varied = np.sqrt(((speech - speech.mean(0)) ** 2).mean())
    assert steady < 0.5 * varied
    quiet = np.random.default_rng(0).normal(scale=1e-5, size=16000 * 8).astype(np.float32)
    np.testing.assert_allclose(features.speech_features(encoder, quiet), silence, atol=1e-3)
