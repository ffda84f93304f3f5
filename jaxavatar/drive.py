"""From speech to the driving signal: what the deformer hears and reads."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxavatar.speech import (
    SpeechEncoder,
    Vocabulary,
    Whisper,
    load_encoder,
    load_reader,
    speech_features,
    text_embeddings,
)
from jaxavatar.speech.encoders import EMBEDDED
from jaxavatar.structs import SEGMENT_FRAMES, Drive


@dataclasses.dataclass(frozen=True)
class Listener:
    """The pretrained speech models: what hears, and what reads and transcribes.

    Attributes:
        encoder: E_aud.
        whisper: E_text.
        vocabulary: of E_text.
    """

    encoder: SpeechEncoder
    whisper: Whisper
    vocabulary: Vocabulary


def load_listener(encoder: str = EMBEDDED, reader: str = EMBEDDED) -> Listener:
    """Load the speech models, fetching them on first use.

    Args:
        encoder: name or file of E_aud, see `speech.load_encoder`.
        reader: name or file of E_text, see `speech.load_reader`.

    Raises:
        InputError: one cannot be fetched, does not exist, or is damaged.
    """
    return Listener(load_encoder(encoder), *load_reader(reader))


def make_drive(
    samples: Float[np.ndarray, " S"], text: str | None = None, listener: Listener | None = None
) -> Drive:
    """Compute the driving signal A_t and Z of a clip of speech (paper, sec. 3.2).

    Args:
        samples: 16 kHz mono at `speech.sound.SPEECH_LEVEL`, as `speech.sound.load` and
            `speech.voice.speak` return them.
        text: what is said; None transcribes the speech.
        listener: the speech models; None loads the default ones.

    Returns:
        T = ceil(S / 640) frames.

    Raises:
        InputError: the text is too long for the speech, or the model cannot be fetched.
    """
    listener = listener or load_listener()
    audio = speech_features(listener.encoder, samples)
    embedded, mask, _ = text_embeddings(listener.whisper, listener.vocabulary, samples, text)
    time = jnp.arange(len(audio))
    return Drive(
        audio=jnp.asarray(audio),
        text=jnp.asarray(embedded),
        text_mask=jnp.asarray(mask),
        segment=time // SEGMENT_FRAMES,
        time=time,
    )
