"""Mouth and trembling of a face in a video, from the landmarks of `tracks`; our own measures.

Lengths are in units of the distance of the eyes' outer corners, with depth, so that neither size
nor a turn of the head counts. No timed sounds are needed: closures are those that the true video
shows, silence is told from its sound.
"""

import itertools

import numpy as np
from jaxtyping import Bool, Float

from jaxavatar.perception.face import CORNERS
from jaxavatar.structs import FPS, SAMPLES_PER_FRAME

UPPER, LOWER = 13, 14  # of the inner lips
CLOSED = 0.15  # of the largest opening
_NEAR = 2  # frames by which a closure may be early or late
_QUIET = 25.0  # dB below the loudest frame
_MARGIN = 5  # frames of silence next to sound that do not count: 0.2 s


def mouth_opening(face: Float[np.ndarray, "T 478 3"]) -> Float[np.ndarray, " T"]:
    """Return the gap between the inner lips, in distances of the eyes."""
    return np.linalg.norm(face[:, UPPER] - face[:, LOWER], axis=-1) / _eyes(face)


def _eyes(face: Float[np.ndarray, "T 478 3"]) -> Float[np.ndarray, " T"]:
    return np.linalg.norm(face[:, CORNERS[0]] - face[:, CORNERS[1]], axis=-1)


def jitter(face: Float[np.ndarray, "T 478 3"]) -> float:
    """Return how much a face trembles: the mean second difference of its points.

    The length of p(t-1) - 2 p(t) + p(t+1) in the picture's plane, mean over points and frames that
    are known, in hundredths of the median distance of the eyes. Real motion counts too, and so does
    the landmark network's own noise: compare with the true video's value.
    """
    bend = face[:-2, :, :2] - 2 * face[1:-1, :, :2] + face[2:, :, :2]
    size = np.linalg.norm(bend, axis=-1)
    known = size[np.isfinite(size)]
    return 100 * float(known.mean() / np.nanmedian(_eyes(face))) if known.size else float("nan")


def closures_met(
    predicted: Float[np.ndarray, " T"], true: Float[np.ndarray, " T"]
) -> tuple[int, int]:
    """Count the true closures, and those of them that the prediction makes too.

    A video's mouth is closed while its opening is below 15 % of its 95th percentile. A closure is a
    run of such frames between open ones; it is met when the prediction is closed at some time in
    it, two frames early or late allowed.

    Returns:
        How many were met, and how many there are.
    """
    if not (np.isfinite(predicted).any() and np.isfinite(true).any()):
        return 0, 0
    shut, wanted = _shut(predicted), _shut(true)
    edges = np.flatnonzero(np.diff(wanted.astype(int)))
    runs = [(a + 1, b + 1) for a, b in itertools.pairwise(edges) if wanted[a + 1]]
    met = [shut[max(a - _NEAR, 0) : b + _NEAR].any() for a, b in runs]
    return int(np.sum(met)), len(runs)


def _shut(opening: Float[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
    return opening < CLOSED * np.nanpercentile(opening, 95)


def silent_frames(samples: Float[np.ndarray, " S"], count: int) -> Bool[np.ndarray, " T"]:
    """Say which frames lie in silence.

    A frame is quiet when its power is more than 25 dB below the loudest frame's; silence is quiet
    at least 0.2 s away from any other frame. Frames beyond the sound's end are silent.

    Args:
        samples: at 16 kHz.
        count: T.
    """
    heard = np.zeros(count * SAMPLES_PER_FRAME)
    heard[: len(samples)] = samples[: len(heard)]
    power = (heard.reshape(count, -1) ** 2).mean(1)
    loud = power >= power.max() * 10 ** (-_QUIET / 10)
    window = np.ones(2 * _MARGIN + 1)
    return np.convolve(loud, window)[_MARGIN : _MARGIN + count] < 0.5


def silence_activity(opening: Float[np.ndarray, " T"], silent: Bool[np.ndarray, " T"]) -> float:
    """Return how fast the mouth moves in silence, over how fast it moves in speech.

    The mean change per second of the opening, of frames whose two ends lie on the same side; NaN
    without both kinds.
    """
    speed = np.abs(np.diff(opening)) * FPS
    quiet, loud = silent[1:] & silent[:-1], ~silent[1:] & ~silent[:-1]
    quiet, loud = quiet & np.isfinite(speed), loud & np.isfinite(speed)
    if not quiet.any() or not loud.any():
        return float("nan")
    spoken = float(speed[loud].mean())
    return float(speed[quiet].mean()) / spoken if spoken else float("nan")
