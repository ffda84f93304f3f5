"""Speech features A_t at the frame rate, from Whisper's encoder, the same however long the clip.

Whisper encodes absolute position and looks at everything it is given, so the same sound gets
different states in another crop. Hence one fixed scheme for training, inference and streams:
windows of 4 s on a grid anchored at time zero, every 2 s, of which the middle 2 s are kept; sound
that does not exist (before the start, after the end) is zero. The log-mel floor is fixed
(`mel.log_mel`), so silence and quiet passages do not depend on the rest of their window either.
That needs sound at one level: `sound.load` and `voice.speak` give it, a stream needs the gain of
its own microphone (`sound.level` on some seconds of it).
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.speech import mel
from jaxavatar.speech.whisper import Encoder
from jaxavatar.speech.whisper_file import Whisper
from jaxavatar.structs import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

# Of tiny.en's 4 blocks. A linear probe for speech sounds (40 classes, unseen voice), and the error
# that a shift of the sound by 0.68 s causes, relative to the variance:
#   block   1: 67 %, 0.64   2: 77 %, 0.22   3: 82 %, 0.11   4: 84 %, 0.31
LAYER = 3
STEP = 2 * SAMPLE_RATE  # kept per window
CONTEXT = SAMPLE_RATE  # heard on each side of it
STATES_PER_FRAME = 2

# The first frame of the transform is centred at the window's start.
_BEFORE = CONTEXT + mel.N_FFT // 2
_WINDOW = _BEFORE + STEP + CONTEXT + mel.N_FFT // 2 - mel.HOP
_STEP_FRAMES = STEP // SAMPLES_PER_FRAME
_BATCH = 4


def speech_features(
    whisper: Whisper, samples: Float[np.ndarray, " S"], layer: int = LAYER
) -> Float[np.ndarray, "T d_a"]:
    """Compute the features of a clip.

    Args:
        whisper: the model (`whisper_file.load`).
        samples: 16 kHz mono at `sound.SPEECH_LEVEL`, as `sound.load` returns them.
        layer: the encoder block whose output is taken, counted from 1; see `encode_windows`.

    Returns:
        T = ceil(S / 640) rows of 2 * width (768 for tiny.en). Row t is made of the two states of
        20 ms inside video frame t. Memory beside the result is constant.
    """
    blocks = list(_stream(whisper, [samples], layer, _BATCH))
    return np.concatenate(blocks)


def stream_features(
    whisper: Whisper, blocks: Iterable[Float[np.ndarray, " n"]], layer: int = LAYER
) -> Iterator[Float[np.ndarray, "n d_a"]]:
    """Yield the features of a clip whose samples arrive in blocks, as soon as they are known.

    The frames of a 2 s step come 1 s after its end, because the model hears 1 s ahead. All pieces
    together equal `speech_features` of all blocks together within 1e-5 of the features' size.

    Args:
        whisper: the model.
        blocks: consecutive pieces of the sound, any lengths.
        layer: as in `speech_features`.

    Yields:
        50 rows at a time, fewer at the end.
    """
    return _stream(whisper, blocks, layer, batch=1)


@functools.partial(jax.jit, static_argnames="layer")
def encode_windows(
    whisper: Whisper, windows: Float[Array, "W samples"], layer: int
) -> Float[Array, "W T d_a"]:
    """Encode windows of 4 s and keep the middle 50 frames of each.

    The residual stream after `layer` is normalised per state to mean 0 and variance 1: it has a
    few channels many times larger than the rest. Early layers mostly say where in the window a
    state is, the last one depends on the crop: see `LAYER`.
    """
    frames = mel.log_mel(windows)
    encode: Callable[..., Any] = Encoder(whisper.config).apply
    states = encode({"params": whisper.encoder}, frames)[layer]
    centred = states - states.mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
    first = CONTEXT // SAMPLES_PER_FRAME * STATES_PER_FRAME
    kept = normed[:, first : first + _STEP_FRAMES * STATES_PER_FRAME]
    return kept.reshape(len(windows), _STEP_FRAMES, -1)


def _stream(
    whisper: Whisper, blocks: Iterable[Float[np.ndarray, " n"]], layer: int, batch: int
) -> Iterator[Float[np.ndarray, "n d_a"]]:
    ready: list[Float[np.ndarray, " samples"]] = []
    frames = 0  # not yielded yet, of the windows that are ready
    for window, count in _windows(blocks):
        ready.append(window)
        frames += count
        if len(ready) == batch:
            yield _encode(whisper, ready, layer, batch)[:frames]
            ready, frames = [], 0
    if ready:
        yield _encode(whisper, ready, layer, batch)[:frames]


def _encode(
    whisper: Whisper, windows: list[Float[np.ndarray, " samples"]], layer: int, batch: int
) -> Float[np.ndarray, "n d_a"]:
    """Encode up to `batch` windows in one call whose shape never changes."""
    stacked = np.zeros((batch, _WINDOW), np.float32)
    stacked[: len(windows)] = windows
    features = np.asarray(encode_windows(whisper, stacked, layer))
    return features.reshape(-1, features.shape[-1])


def _windows(
    blocks: Iterable[Float[np.ndarray, " n"]],
) -> Iterator[tuple[Float[np.ndarray, " samples"], int]]:
    """Cut a stream into windows; yield each with the number of video frames it stands for."""
    held = np.zeros(_BEFORE, np.float32)
    for block in blocks:
        held = np.concatenate([held, block.astype(np.float32)])
        while len(held) >= _WINDOW:
            yield held[:_WINDOW], _STEP_FRAMES
            held = held[STEP:]
    left = math.ceil((len(held) - _BEFORE) / SAMPLES_PER_FRAME)
    while left > 0:
        piece = held[:_WINDOW]
        yield np.pad(piece, (0, _WINDOW - len(piece))), min(left, _STEP_FRAMES)
        held, left = held[STEP:], left - _STEP_FRAMES


def frame_count(samples: int) -> int:
    """Return the number of video frames that cover so many samples: ceil(samples / 640)."""
    return math.ceil(samples * FPS / SAMPLE_RATE)
