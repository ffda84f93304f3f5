"""Speech: files, encoders of sound and text, text to speech, visemes, prosody."""

from jaxavatar.speech.encoders import load_encoder, load_reader
from jaxavatar.speech.features import (
    FeatureConfig,
    SpeechEncoder,
    frame_count,
    speech_features,
    stream_features,
)
from jaxavatar.speech.prosody import Prosody, analyse
from jaxavatar.speech.sound import save_wav
from jaxavatar.speech.transcribe import text_embeddings
from jaxavatar.speech.visemes import FACE_UNITS, PHONE_SHAPES, face_curves
from jaxavatar.speech.vocabulary import Vocabulary
from jaxavatar.speech.voice import FLITE_VOICES, speak
from jaxavatar.speech.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from jaxavatar.speech.whisper import WhisperConfig
from jaxavatar.speech.whisper_file import Whisper

__all__ = [
    "FACE_UNITS",
    "FLITE_VOICES",
    "PHONE_SHAPES",
    "FeatureConfig",
    "Prosody",
    "SpeechEncoder",
    "Vocabulary",
    "Wav2Vec2",
    "Wav2Vec2Config",
    "Whisper",
    "WhisperConfig",
    "analyse",
    "face_curves",
    "frame_count",
    "load_encoder",
    "load_reader",
    "save_wav",
    "speak",
    "speech_features",
    "stream_features",
    "text_embeddings",
]
