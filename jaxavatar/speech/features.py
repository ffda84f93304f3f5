"""Speech features A_t at the frame rate: one interface, E_aud, for every encoder.

Whisper encodes absolute position, both encoders look at everything they are given, and wav2vec
2.0's base model takes statistics over time. Hence one fixed scheme for training, inference and
streams: the windows of `windows`. Whisper hears zeros where there is no sound, as in its training.
wav2vec 2.0 leaves what does not exist out, so the features of a clip that fits into one window
beside its context are those of the whole clip; in longer ones, attention and the statistics of the
first convolution see a window instead of the clip.

Levels are fixed too, so that a frame does not depend on what is loudest elsewhere: Whisper's
log-mel floor (`mel.log_mel`), and a gain for wav2vec 2.0, which was trained on clips of variance 1,
instead of each clip's own. That needs sound at one level: `sound.load` and `voice.speak` give it, a
stream needs the gain of its own microphone (`sound.level` on some seconds of it).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxavatar.errors import InputError
from jaxavatar.speech import mel, wav2vec2, whisper, windows
from jaxavatar.speech.sound import SPEECH_LEVEL
from jaxavatar.speech.wav2vec2 import Wav2Vec2
from jaxavatar.speech.whisper_file import Whisper
from jaxavatar.structs import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

STATES_PER_FRAME = 2
HOP = SAMPLES_PER_FRAME // STATES_PER_FRAME

_GAIN = 10 ** (-SPEECH_LEVEL / 20)
_PIECE = 30 * SAMPLE_RATE


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """How A_t is made of an encoder's hidden states.

    Attributes:
        layers: the blocks whose outputs are taken, counted from 1, 0 being their input; several
            are concatenated. Of tiny.en's 4 blocks, a linear probe for speech sounds (40 classes,
            unseen voice) and the error that a shift of the sound by 0.68 s causes, relative to the
            variance, say 1: 67 %, 0.64; 2: 77 %, 0.22; 3: 82 %, 0.11; 4: 84 %, 0.31. Early ones
            mostly say where in the window a state is, the last one depends on the crop.
        step: video frames that a window stands for.
        context: video frames heard on each side of them. A stream's features come as much later.
        normed: normalise each state to mean 0 and variance 1: the residual stream has a few
            channels many times larger than the rest.
        resample: bring wav2vec 2.0's features to the frame rate before its transformer reads them,
            as talking-head models do; each frame then has one state instead of two.
    """

    layers: tuple[int, ...] = (3,)
    step: int = 50
    context: int = 25
    normed: bool = True
    resample: bool = False


@dataclasses.dataclass(frozen=True)
class SpeechEncoder:
    """E_aud: a model and how its states become A_t.

    Attributes:
        name: tells encoders apart, in messages for one.
        model: parameters and sizes.
        config: how A_t is made.

    Raises:
        InputError: the model lacks such layers, cannot hear so much at once, has other states than
            two per frame, or resamples and is no wav2vec 2.0.
    """

    name: str
    model: Whisper | Wav2Vec2
    config: FeatureConfig = FeatureConfig()

    def __post_init__(self) -> None:
        """Check that model and config fit."""
        _check(self.name, self.model, self.config)

    @property
    def width(self) -> int:
        """d_a."""
        states = 1 if self.config.resample else STATES_PER_FRAME
        return states * len(self.config.layers) * self.model.config.width

    @property
    def grid(self) -> windows.Grid:
        """How sound is cut."""
        step, context = self.config.step, self.config.context
        if isinstance(self.model, Whisper):
            # The first frame of the transform is centred at the first video frame's start.
            return windows.Grid(step, context, mel.N_FFT // 2, mel.N_FFT // 2 - mel.HOP)
        tail = self.model.config.reach - HOP
        return windows.Grid(step, context, 0, tail - HOP if self.config.resample else tail)


def speech_features(
    encoder: SpeechEncoder, samples: Float[np.ndarray, " S"]
) -> Float[np.ndarray, "T d_a"]:
    """Compute the features of a clip.

    Args:
        encoder: E_aud (`encoders.load_encoder`).
        samples: 16 kHz mono at `sound.SPEECH_LEVEL`, as `sound.load` returns them; not empty.

    Returns:
        T = ceil(S / 640) rows of `encoder.width`. Row t is made of the states of 20 ms inside video
        frame t, the earlier one first. Memory beside the result is constant.
    """
    pieces = (samples[start : start + _PIECE] for start in range(0, len(samples), _PIECE))
    batch = 4 if isinstance(encoder.model, Whisper) else 1  # enough work for one call
    return np.concatenate(list(_stream(encoder, pieces, batch)))


def stream_features(
    encoder: SpeechEncoder, blocks: Iterable[Float[np.ndarray, " n"]]
) -> Iterator[Float[np.ndarray, "n d_a"]]:
    """Yield the features of a clip whose samples arrive in blocks, as soon as they are known.

    The frames of a step come a context after its end, because the model hears so far ahead. All
    pieces together equal `speech_features` of all blocks together within 1e-5 of the features'
    size.

    Args:
        encoder: E_aud.
        blocks: consecutive pieces of the sound, any lengths.

    Yields:
        `encoder.config.step` rows at a time, fewer at the end.
    """
    return _stream(encoder, blocks, batch=1)


def frame_count(samples: int) -> int:
    """Return the number of video frames that cover so many samples: ceil(samples / 640)."""
    return -(-samples * FPS // SAMPLE_RATE)


@functools.partial(jax.jit, static_argnames="config")
def encode_windows(
    model: Whisper | Wav2Vec2,
    samples: Float[Array, "W samples"],
    spans: Int[Array, "W 2"],
    config: FeatureConfig,
) -> Float[Array, "W T d_a"]:
    """Encode windows and keep the `step` frames in the middle of each."""
    if isinstance(model, Whisper):
        states = _whisper_states(model, samples)
    else:
        states = _wav2vec2_states(model, samples, spans, config)
    chosen = [states[layer] for layer in config.layers]
    if config.normed:
        chosen = [_normed(state) for state in chosen]
    joined = jnp.concatenate(chosen, axis=-1)
    per_frame = 1 if config.resample else STATES_PER_FRAME
    kept = joined[:, config.context * per_frame : (config.context + config.step) * per_frame]
    return kept.reshape(len(samples), config.step, -1)


def _whisper_states(
    model: Whisper, samples: Float[Array, "W samples"]
) -> tuple[Float[Array, "W n d"], ...]:
    encode: Callable[..., Any] = whisper.Encoder(model.config).apply
    return encode({"params": model.encoder}, mel.log_mel(samples, model.config.mels))


def _wav2vec2_states(
    model: Wav2Vec2,
    samples: Float[Array, "W samples"],
    spans: Int[Array, "W 2"],
    config: FeatureConfig,
) -> tuple[Float[Array, "W n d"], ...]:
    encode: Callable[..., Any] = wav2vec2.Encoder(model.config).apply
    frames = config.step + 2 * config.context if config.resample else None
    return encode({"params": model.params}, samples * _GAIN, spans, frames)


def _normed(states: Float[Array, "W n d"]) -> Float[Array, "W n d"]:
    centred = states - states.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


def _stream(
    encoder: SpeechEncoder, blocks: Iterable[Float[np.ndarray, " n"]], batch: int
) -> Iterator[Float[np.ndarray, "n d_a"]]:
    def encode(samples: windows.Windows, spans: windows.Spans) -> Float[np.ndarray, "W step d"]:
        return np.asarray(encode_windows(encoder.model, samples, spans, encoder.config))

    return windows.encode(encoder.grid, blocks, encode, batch)


def _check(name: str, model: Whisper | Wav2Vec2, config: FeatureConfig) -> None:
    sizes = model.config
    if isinstance(sizes, whisper.WhisperConfig):
        blocks, longest = sizes.encoder_layers, sizes.audio_positions // STATES_PER_FRAME
        if config.resample:
            raise InputError(f"{name} is a Whisper model, which cannot resample its features")
        if config.step + 2 * config.context > longest:
            raise InputError(f"{name} hears at most {longest} frames; choose a shorter window")
    else:
        blocks = sizes.layers
        if sizes.hop != HOP:
            raise InputError(f"{name} has a state per {sizes.hop} samples; {HOP} are needed")
    if wrong := [layer for layer in config.layers if not 0 <= layer <= blocks]:
        raise InputError(f"{name} has {blocks} blocks; there is no layer {wrong[0]}")
    if not config.layers:
        raise InputError(f"no layer of {name} is chosen; name at least one")
