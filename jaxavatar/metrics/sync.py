"""SyncC and SyncD: confidence and distance of SyncNet (Prajwal et al., 2020, by SyncNet's release).

Five frames of the face at 25 per second, one window per frame, against 20 cepstra of the sound
beside them; the sound is shifted by up to 15 frames either way. D is the least over the 31 shifts
of the distance averaged over windows, C the median over shifts minus D. Windows begin at frames 0
to T - 6, as the release has it; beyond the sound's ends its vectors are zeros.

The release finds faces by S3FD and drops those below 100 pixels; here they are found by MediaPipe's
landmarks, whose bounding square takes the detector's place. Figures of other face detectors may
differ somewhat.
"""

import dataclasses

import numpy as np
import scipy.fft
import scipy.signal
from jaxtyping import Float

from jaxavatar.structs import SAMPLE_RATE

SHIFT = 15  # frames
_WINDOW, _STEP, _FFT = 400, 160, 512  # samples
_FILTERS, _KEPT, _LIFT, _EMPHASIS = 26, 13, 22, 0.97
_MARGIN = 0.4  # of the square's half around the face
_SMOOTH = 13  # frames


@dataclasses.dataclass(frozen=True)
class SyncScores:
    """Confidence (higher is better), distance (lower), and frames by which the sound is early."""

    confidence: float
    distance: float
    offset: int


def sync_scores(lips: Float[np.ndarray, "W d"], sound: Float[np.ndarray, "W d"]) -> SyncScores:
    """Score the vectors of all windows of a video; see the module's docstring."""
    padded = np.pad(sound, ((SHIFT, SHIFT), (0, 0)))
    # A millionth is added to each difference, as PyTorch's pairwise distance does.
    by_shift = np.array(
        [
            np.linalg.norm(lips - padded[k : k + len(lips)] + 1e-6, axis=1).mean()
            for k in range(2 * SHIFT + 1)
        ]
    )
    least = int(by_shift.argmin())
    distance = float(by_shift[least])
    return SyncScores(float(np.median(by_shift)) - distance, distance, SHIFT - least)


def cepstra(samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, "13 F"]:
    """Return mel cepstra, 100 per second, as the package python_speech_features computes them.

    Rectangular windows of 25 ms, pre-emphasis 0.97, 26 triangular filters of whole bins of 512,
    orthonormal cosine transform, liftering by 22, and the logarithm of the energy in the first
    place.

    Args:
        samples: at 16 kHz, in [-1, 1], not levelled: the level counts.
    """
    words = np.round(np.asarray(samples, np.float64) * 32768)
    signal = np.append(words[:1], words[1:] - _EMPHASIS * words[:-1])
    count = 1 + max(0, int(np.ceil((len(signal) - _WINDOW) / _STEP)))
    signal = np.pad(signal, (0, max(0, (count - 1) * _STEP + _WINDOW - len(signal))))
    framed = np.lib.stride_tricks.sliding_window_view(signal, _WINDOW)[::_STEP][:count]
    power = np.abs(np.fft.rfft(framed, _FFT)) ** 2 / _FFT
    tiny = np.finfo(float).eps
    bands = np.log(np.maximum(power @ _filters().T, tiny))
    found = np.asarray(scipy.fft.dct(bands, axis=1, norm="ortho"))[:, :_KEPT]
    found *= 1 + _LIFT / 2 * np.sin(np.pi * np.arange(_KEPT) / _LIFT)
    found[:, 0] = np.log(np.maximum(power.sum(1), tiny))
    return found.T


def _filters() -> Float[np.ndarray, "M K"]:
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, _FILTERS + 2) / 2595) - 1)
    edges = np.floor((_FFT + 1) * hertz / SAMPLE_RATE)
    at = np.arange(_FFT // 2 + 1)
    low, middle, high = (edges[k : k + _FILTERS, None] for k in range(3))
    rising = (at >= low) & (at < middle)
    falling = (at >= middle) & (at < high)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            rising,
            (at - low) / (middle - low),
            np.where(falling, (high - at) / (high - middle), 0.0),
        )


def face_squares(face: Float[np.ndarray, "T 478 3"]) -> Float[np.ndarray, "T 3"]:
    """Return where SyncNet looks: centre x, y and side of a square, pixels.

    The half side h of the landmarks' bounding square and its centre are smoothed by a median over
    13 frames; the square reaches 1.4 h to either side, from h above to 1.8 h below the centre.
    Frames without a face take the nearest one's before smoothing.

    Raises:
        ValueError: no frame shows a face.
    """
    known = np.flatnonzero(np.isfinite(face).all((1, 2)))
    if not len(known):
        raise ValueError("no frame shows a face")
    places = np.arange(len(face))
    points = face[known[np.abs(known - places[:, None]).argmin(1)], :, :2]
    low, high = points.min(1), points.max(1)
    half = (high - low).max(1) / 2
    centre = (low + high) / 2
    column = np.stack([centre[:, 0], centre[:, 1], half])
    room = np.pad(column, ((0, 0), (_SMOOTH // 2, _SMOOTH // 2)), "edge")
    x, y, half = scipy.signal.medfilt(room, (1, _SMOOTH))[:, _SMOOTH // 2 : -(_SMOOTH // 2)]
    return np.stack([x, y + _MARGIN * half, 2 * (1 + _MARGIN) * half], axis=1)
