"""wav2vec 2.0's features: aligned with frames, windows as good as the whole, memory constant."""

import dataclasses
import itertools
import tracemalloc
from typing import Any

import jax
import numpy as np
import pytest

from jaxavatar.errors import InputError
from jaxavatar.speech import SpeechEncoder, Wav2Vec2, features, wav2vec2, windows
from jaxavatar.speech.encoders import default_features, teacher_features
from jaxavatar.speech.features import FeatureConfig
from jaxavatar.speech.model_file import build
from jaxavatar.speech.shapes import parameter_shapes
from jaxavatar.speech.sound import SPEECH_LEVEL
from jaxavatar.speech.wav2vec2 import Wav2Vec2Config
from jaxavatar.teachers.wan.config import AudioConfig

SMALL = Wav2Vec2Config(
    (6,) * 7, width=8, heads=2, layers=1, hidden=8, position_kernel=8, position_groups=2
)
SIZES = {
    "group": SMALL,
    "layer": dataclasses.replace(SMALL, conv_bias=True, conv_norm="layer", pre_norm=True),
}
_QUICK: Any = {"xla_backend_optimization_level": 0}  # only compiles sooner
GAIN = 10 ** (-SPEECH_LEVEL / 20)


@pytest.fixture(scope="module", params=list(SIZES))
def model(request):
    """A small model of each family."""
    return small(SIZES[request.param])


def small(config):
    """A model with random weights."""
    random = np.random.default_rng(1)
    tensors = {}
    for path, shape in parameter_shapes(config).items():
        values = random.normal(size=shape)
        if path.endswith(("scale", "length")):
            values = 1 + 0.2 * values
        elif path.endswith("bias"):
            values = 0.1 * values
        else:
            values = values / np.sqrt(np.prod(shape[:-1]))
        tensors[path] = values
    model = build(tensors, config)
    assert isinstance(model, Wav2Vec2)
    return model


def compiled():
    """Return for how many shapes the encoder was compiled."""
    jitted: Any = features.encode_windows
    return jitted._cache_size()


def noise(frames, extra=0):
    return np.random.default_rng(0).normal(scale=0.1, size=640 * frames + extra).astype(np.float32)


def whole(model, samples, frames=None):
    """Encode all samples at once, at the level of its training."""
    run: Any = wav2vec2.Encoder(model.config).apply
    encode = jax.jit(
        lambda samples: run({"params": model.params}, samples, None, frames),
        compiler_options=_QUICK,
    )
    return encode(samples * GAIN)


def to_last_state(samples):
    """Add silence until the end of the last frame's second state."""
    return np.pad(samples, (0, -len(samples) % 640 + 80))


def test_a_clip_of_one_window_is_encoded_as_a_whole(model):
    """Row t is the states [320 (2 t), + 400) and [320 (2 t + 1), + 400); to 1e-4 of size 1."""
    samples = noise(90, extra=100)
    config = FeatureConfig((0, 1), step=100, context=20, normed=False)
    found = features.speech_features(SpeechEncoder("small", model, config), samples)
    states = whole(model, to_last_state(samples))
    expected = np.concatenate(states, -1).reshape(91, -1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_video_teachers_condition_of_a_clip(model):
    """Rows at the frame rate: the last state, then all of them, of the clip as a whole."""
    samples = noise(61)
    chosen = teacher_features(model)
    found = features.speech_features(SpeechEncoder("small", model, chosen), samples)
    states = whole(model, samples[:-240], frames=61)  # to the end of the last frame's first state
    expected = np.concatenate([states[1], *states], -1)
    assert found.shape == (61, 3 * 8)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_windows_agree_with_the_whole_of_a_long_clip():
    """Exactly before the first attention, where all is local; nearly after it."""
    model = small(SIZES["layer"])
    samples = noise(470, extra=300)
    encoder = SpeechEncoder("small", model, FeatureConfig((0, 1), 100, 20, normed=False))
    found = features.speech_features(encoder, samples).reshape(471 * 2, 2, 8)
    states = whole(model, to_last_state(samples))
    np.testing.assert_allclose(found[:, 0], states[0], atol=1e-4)
    # Attention sees a window instead of the clip.
    error = np.sqrt(np.mean((found[:, 1] - states[1]) ** 2) / np.var(states[1]))
    assert 1e-3 < error < 0.1, error


def test_a_stream_equals_the_clip_and_compiles_once(model):
    samples = noise(130)
    encoder = SpeechEncoder("small", model, FeatureConfig((1,), step=40, context=10))
    clip = features.speech_features(encoder, samples)
    before = compiled()
    pieces = np.split(samples, [1, 7000, 7001, 60000])
    streamed = np.concatenate(list(features.stream_features(encoder, pieces)))
    features.speech_features(encoder, samples[:5000])
    assert compiled() == before
    np.testing.assert_allclose(streamed, clip, atol=1e-5)


def test_memory_does_not_grow_with_the_sound():
    """Ten minutes in blocks of 0.1 s: beside the result, no more than twice a window's size."""
    grid = SpeechEncoder("small", Wav2Vec2({}, SMALL), default_features(Wav2Vec2({}, SMALL))).grid
    block = np.zeros(1600, np.float32)
    rows = np.zeros((1, grid.step, 1), np.float32)

    def encode(samples, spans):
        return rows

    def run(seconds):
        tracemalloc.start()
        blocks = itertools.repeat(block, seconds * 10)
        count = sum(len(part) for part in windows.encode(grid, blocks, encode, 1))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == seconds * 25
        return peak

    short, long = run(60), run(600)
    assert long < 1.1 * short
    assert long < 4 * grid.length * 4


def test_the_teachers_adapter_takes_the_base_model():
    model = Wav2Vec2({}, wav2vec2.CONFIGS["base"])
    encoder = SpeechEncoder("base", model, teacher_features(model))
    assert encoder.width == AudioConfig().features == 14 * 768


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FeatureConfig((3,)), "has 1 blocks; there is no layer 3"),
        (FeatureConfig(()), "name at least one"),
    ],
)
def test_features_that_a_model_does_not_have(config, message):
    with pytest.raises(InputError, match=message):
        SpeechEncoder("small", Wav2Vec2({}, SMALL), config)
    with pytest.raises(InputError, match="a state per 64 samples; 320 are needed"):
        strides = dataclasses.replace(SMALL, conv_strides=(1, 2, 2, 2, 2, 2, 2))
        SpeechEncoder("small", Wav2Vec2({}, strides), FeatureConfig((1,)))
