"""Speech: files, Whisper's features and text, text to speech, visemes, prosody."""

from jaxavatar.speech.features import frame_count, speech_features, stream_features
from jaxavatar.speech.prosody import Prosody, analyse
from jaxavatar.speech.sound import save_wav
from jaxavatar.speech.transcribe import text_embeddings
from jaxavatar.speech.visemes import FACE_UNITS, PHONE_SHAPES, face_curves
from jaxavatar.speech.vocabulary import Vocabulary
from jaxavatar.speech.voice import FLITE_VOICES, speak
from jaxavatar.speech.whisper import WhisperConfig
from jaxavatar.speech.whisper_file import Whisper

__all__ = [
    "FACE_UNITS",
    "FLITE_VOICES",
    "PHONE_SHAPES",
    "Prosody",
    "Vocabulary",
    "Whisper",
    "WhisperConfig",
    "analyse",
    "face_curves",
    "frame_count",
    "save_wav",
    "speak",
    "speech_features",
    "stream_features",
    "text_embeddings",
]
