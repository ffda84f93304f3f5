from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from jaxavatar import drive
from jaxavatar.speech import (
    SpeechEncoder,
    Vocabulary,
    Whisper,
    WhisperConfig,
    speech_features,
)
from jaxavatar.speech.whisper import Decoder, Encoder
from jaxavatar.structs import SAMPLE_RATE, SEGMENT_FRAMES


@pytest.fixture(scope="module")
def listener():
    """A Whisper of width 8 with random weights, and a vocabulary of three words."""
    config = WhisperConfig(width=8, heads=2, encoder_layers=3, decoder_layers=1, vocabulary=9)
    words = {"Ġone": 0, "Ġtwo": 1, "?": 2}
    pieces = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = Vocabulary(pieces, (4, 5), 3, 6, (), ())
    encoder, decoder = Encoder(config), Decoder(config)
    encoded: Any = jax.jit(encoder.init)(jax.random.key(0), jnp.zeros((3000, 80)))

    def read(decoder: Decoder):
        heard = decoder.hear(jnp.zeros((1500, 8)))
        return decoder.logits(
            decoder(jnp.zeros(3, int), jnp.array(0), decoder.silence(3), heard)[0]
        )

    decoded: Any = decoder.init(jax.random.key(1), method=read)
    model = Whisper(encoded["params"], decoded["params"], config)
    return drive.Listener(SpeechEncoder("tiny", model), model, vocabulary)


@pytest.mark.parametrize("seconds", [0.5, 31.01])
def test_frames_segments_and_times(listener, seconds):
    count = round(seconds * SAMPLE_RATE)
    samples = np.random.default_rng(0).normal(size=count).astype(np.float32) / 20
    made = drive.make_drive(samples, "one two one", listener)
    frames, segments = -(-count // 640), -(-count // (30 * SAMPLE_RATE))
    assert made.audio.shape == (frames, 16) and made.text.shape == (segments, 64, 8)
    np.testing.assert_array_equal(made.time, np.arange(frames))
    np.testing.assert_array_equal(made.segment, np.arange(frames) // SEGMENT_FRAMES)
    assert int(made.segment.max()) == segments - 1
    np.testing.assert_array_equal(made.audio, speech_features(listener.encoder, samples))
    assert int(made.text_mask.sum()) == 3  # each word once, in the segment where it is said
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(made))


def test_text_is_heard_when_not_given(listener):
    samples = np.random.default_rng(0).normal(size=8000).astype(np.float32) / 20
    given = drive.make_drive(samples, "two two", listener)
    heard = drive.make_drive(samples, None, listener)
    np.testing.assert_array_equal(given.audio, heard.audio)
    assert not np.array_equal(given.text_mask, heard.text_mask)
