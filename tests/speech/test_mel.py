"""Log-mel spectra against the feature extractor of transformers (numpy, float64)."""

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from transformers.audio_utils import mel_filter_bank

from jaxavatar.speech import mel


def test_filters():
    expected = mel_filter_bank(201, 80, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel.mel_filters(), expected.T, atol=1e-7)


def test_whisper_log_mel(noise):
    sound = np.concatenate([noise * np.linspace(0, 3, len(noise)), np.zeros(16000)]).astype(
        np.float32
    )
    extractor = transformers.WhisperFeatureExtractor(chunk_length=len(sound) // 16000)
    expected = extractor(sound, sampling_rate=16000, return_tensors="np")["input_features"][0].T
    computed = jax.jit(mel.whisper_log_mel)(sound)
    np.testing.assert_allclose(computed, expected, atol=2e-4)


def test_log_mel_depends_on_nothing_but_its_own_samples(noise):
    whole = mel.log_mel(jnp.asarray(noise))
    assert whole.shape == ((32000 - 400) // 160 + 1, 80)
    part = noise[1600 : 1600 + 8000].copy()
    np.testing.assert_allclose(mel.log_mel(jnp.asarray(part)), whole[10 : 10 + 48], atol=1e-5)
    # Whisper's frame 2 is centred at sample 320: our frame that starts at sample 120.
    np.testing.assert_allclose(
        mel.log_mel(jnp.asarray(noise[120:])),
        mel.whisper_log_mel(jnp.asarray(noise))[2:-1],
        atol=1e-4,
    )


def test_silence_is_one_constant():
    np.testing.assert_allclose(mel.log_mel(jnp.zeros(4000)), (mel.FLOOR + 4) / 4)
