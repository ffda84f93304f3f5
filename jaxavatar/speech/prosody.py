"""Loudness, voicing, pitch, stress and pauses of speech at the frame rate.

Everything is local: a frame's values depend on at most 0.35 s of sound around it and on absolute
levels, never on the rest of the clip, so that a model which hears a short window can learn what
follows from them. Levels suppose speech at `sound.SPEECH_LEVEL`.
"""

import dataclasses

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

from jaxavatar.speech.features import frame_count
from jaxavatar.structs import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

QUIET, LOUD = -48.0, -18.0  # dBFS of the energies 0 and 1
PAUSE = -45.0  # dBFS; below it for `_PAUSE_FRAMES` to both sides is a pause
LOWEST_PITCH, HIGHEST_PITCH = 70.0, 400.0  # Hz

_PAUSE_FRAMES = 3
_PITCH_WINDOW = 1024
_VOICED = 0.5  # normalised autocorrelation
_OCTAVE_COST = 0.05
_STRESS_REACH = round(0.3 * FPS)
_CHUNK = 1024  # frames at once, to bound the memory


@dataclasses.dataclass(frozen=True)
class Prosody:
    """Prosody of T frames.

    Attributes:
        energy: loudness, 0 at `QUIET` to 1 at `LOUD` (linear in dB).
        voicing: how periodic the sound is, in [0, 1].
        pitch: fundamental frequency in Hz, 0 where there is none.
        stress: in (0, 1] at the frame of each stressed syllable's peak, 0 elsewhere.
        pause: no speech here, nor within 0.12 s.
    """

    energy: Float[np.ndarray, " T"]
    voicing: Float[np.ndarray, " T"]
    pitch: Float[np.ndarray, " T"]
    stress: Float[np.ndarray, " T"]
    pause: Bool[np.ndarray, " T"]


def analyse(samples: Float[np.ndarray, " S"]) -> Prosody:
    """Analyse speech at 25 frames per second.

    Args:
        samples: 16 kHz mono at `sound.SPEECH_LEVEL`.

    Returns:
        T = ceil(S / 640) frames.
    """
    decibels = _decibels(samples)
    energy = np.clip((decibels - QUIET) / (LOUD - QUIET), 0, 1)
    voicing, pitch = _pitch(samples)
    # Digital silence and rumble may be periodic; a voice is also loud.
    voiced = (voicing > _VOICED) & (energy > 0.2)
    loudest = scipy.ndimage.maximum_filter1d(decibels, 2 * _PAUSE_FRAMES + 1, mode="nearest")
    return Prosody(
        energy=energy,
        voicing=np.where(energy > 0, voicing, 0),
        pitch=np.where(voiced, pitch, 0),
        stress=_stress(energy * np.clip(voicing, 0, 1)),
        pause=loudest < PAUSE,
    )


def _frames(samples: Float[np.ndarray, " S"], width: int) -> Float[np.ndarray, "T width"]:
    """Return a view of `width` samples around the middle of each frame, zeros beyond the ends."""
    count = frame_count(len(samples))
    before = (width - SAMPLES_PER_FRAME) // 2
    after = count * SAMPLES_PER_FRAME - len(samples) + width
    padded = np.pad(samples, (before, after))
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    return windows[::SAMPLES_PER_FRAME][:count]


def _decibels(samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, " T"]:
    """Return the level of each frame in dBFS, over 60 ms with a Hann window."""
    width = SAMPLES_PER_FRAME * 3 // 2
    window = np.hanning(width)
    windows = _frames(samples, width)
    power = np.concatenate(
        [
            windows[i : i + _CHUNK].astype(float) ** 2 @ window
            for i in range(0, len(windows), _CHUNK)
        ]
    )
    return 10 * np.log10(np.maximum(power / window.sum(), 1e-10))


def _pitch(
    samples: Float[np.ndarray, " S"],
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """Return the height and the frequency of the autocorrelation's peak (Boersma, 1993).

    The autocorrelation of the windowed sound is divided by that of the window, which removes the
    bias towards short periods.
    """
    window = np.hanning(_PITCH_WINDOW)
    reference = _autocorrelation(window[None])[0]
    shortest, longest = int(SAMPLE_RATE / HIGHEST_PITCH), int(SAMPLE_RATE / LOWEST_PITCH)
    # Two periods fit as well as one: Boersma's octave cost prefers the shorter lag.
    cost = _OCTAVE_COST * np.log2(np.arange(shortest, longest + 1) / shortest)
    heights, pitches = [], []
    windows = _frames(samples, _PITCH_WINDOW)
    for start in range(0, len(windows), _CHUNK):
        piece = windows[start : start + _CHUNK].astype(float)
        piece = (piece - piece.mean(1, keepdims=True)) * window
        correlation = _autocorrelation(piece)
        # The floor makes near silence unvoiced instead of dividing by nothing.
        scale = correlation[:, :1] / reference[0] + 1e-7
        lags = (correlation / scale / reference)[:, shortest : longest + 1]
        best = (lags - cost).argmax(1)
        heights.append(np.take_along_axis(lags, best[:, None], 1)[:, 0])
        pitches.append(SAMPLE_RATE / (best + shortest))
    return np.clip(np.concatenate(heights), 0, 1), np.concatenate(pitches)


def _autocorrelation(windows: Float[np.ndarray, "T n"]) -> Float[np.ndarray, "T m"]:
    spectrum = np.fft.rfft(windows, 2 * windows.shape[1])
    reach = int(SAMPLE_RATE / LOWEST_PITCH) + 1
    return np.fft.irfft(np.abs(spectrum) ** 2)[:, :reach]


def _stress(voiced_energy: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Mark the peaks of voiced loudness that stand out of the 0.3 s before and after them."""
    smooth = scipy.ndimage.gaussian_filter1d(voiced_energy, 1.0, mode="constant", radius=2)
    reach = 2 * _STRESS_REACH + 1
    highest = scipy.ndimage.maximum_filter1d(smooth, reach, mode="constant")
    lowest = scipy.ndimage.minimum_filter1d(smooth, reach, mode="constant")
    prominence = np.clip((smooth - lowest - 0.05) / 0.4, 0, 1)
    peak = (smooth == highest) & (np.diff(smooth, prepend=-1.0) != 0)
    return np.where(peak, prominence * smooth, 0)
