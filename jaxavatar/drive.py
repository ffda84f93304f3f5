"""From speech to the driving signal: what the deformer hears and reads."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxavatar.speech import (
    Vocabulary,
    Whisper,
    speech_features,
    text_embeddings,
    vocabulary,
    whisper_file,
)
from jaxavatar.structs import SEGMENT_FRAMES, Drive


@dataclasses.dataclass(frozen=True)
class Listener:
    """The pretrained speech model and its vocabulary."""

    whisper: Whisper
    vocabulary: Vocabulary


def load_listener() -> Listener:
    """Load Whisper tiny.en, fetching it on first use.

    Raises:
        InputError: it cannot be fetched, or is damaged.
    """
    return Listener(whisper_file.pretrained(), vocabulary.pretrained())


def make_drive(
    samples: Float[np.ndarray, " S"], text: str | None = None, listener: Listener | None = None
) -> Drive:
    """Compute the driving signal A_t and Z of a clip of speech (paper, sec. 3.2).

    Args:
        samples: 16 kHz mono at `speech.sound.SPEECH_LEVEL`, as `speech.sound.load` and
            `speech.voice.speak` return them.
        text: what is said; None transcribes the speech.
        listener: the speech model; None loads the default one.

    Returns:
        T = ceil(S / 640) frames.

    Raises:
        InputError: the text is too long for the speech, or the model cannot be fetched.
    """
    listener = listener or load_listener()
    audio = speech_features(listener.whisper, samples)
    embedded, mask, _ = text_embeddings(listener.whisper, listener.vocabulary, samples, text)
    time = jnp.arange(len(audio))
    return Drive(
        audio=jnp.asarray(audio),
        text=jnp.asarray(embedded),
        text_mask=jnp.asarray(mask),
        segment=time // SEGMENT_FRAMES,
        time=time,
    )
