"""Do the lips follow the sound? Measures on the mouth's opening, for exact or detected points."""

import dataclasses

import numpy as np
from jaxtyping import Float

from jaxavatar.body import LANDMARKS
from jaxavatar.speech.visemes import BILABIALS
from jaxavatar.structs import FPS, Phone

UPPER = LANDMARKS.index("upper_lip_inner")
LOWER = LANDMARKS.index("lower_lip_inner")
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CLOSED = 0.15  # of the vowel maximum
_SEARCH = 5  # frames of offset on either side


@dataclasses.dataclass(frozen=True)
class LipScores:
    """Scores of one set of clips; see the functions below."""

    correlation: float
    offset_frames: int
    bilabials_closed: float
    silence_opening: float


def opening(landmarks: Float[np.ndarray, "T K 3"]) -> Float[np.ndarray, " T"]:
    """Return the gap between the inner lips.

    Args:
        landmarks: positions of `body.LANDMARKS` in any unit of length.
    """
    return np.linalg.norm(landmarks[:, UPPER] - landmarks[:, LOWER], axis=-1)


def score(
    predicted: list[Float[np.ndarray, " T"]],
    true: list[Float[np.ndarray, " T"]],
    phones: list[tuple[Phone, ...]],
) -> LipScores:
    """Score mouth openings against the teacher's, over all clips together.

    Args:
        predicted: opening beyond the closed mouth's, one array per clip.
        true: the same of the teacher.
        phones: timed sounds of each clip.

    Returns:
        `correlation`: Pearson's, over all frames of all clips. `offset_frames`: the shift of the
        prediction (positive: late) with the highest correlation, within 5 frames.
        `bilabials_closed`: share of P, B, M during which (half a frame beyond either end) the
        opening falls below 15 % of the clip's largest opening in vowels. `silence_opening`: the
        largest opening in silence, 0.2 s away from speech, over the clips' median vowel maximum.
    """
    correlation, offset = follow(predicted, true)
    peaks = [_vowel_peak(p, spoken) for p, spoken in zip(predicted, phones, strict=True)]
    closed = [
        minimum < CLOSED * peak
        for p, spoken, peak in zip(predicted, phones, peaks, strict=True)
        for minimum in _minima(p, spoken)
    ]
    silence = [
        p[_silent_frames(spoken, len(p))] for p, spoken in zip(predicted, phones, strict=True)
    ]
    quiet = np.concatenate(silence)
    return LipScores(
        correlation=correlation,
        offset_frames=offset,
        bilabials_closed=float(np.mean(closed)) if closed else float("nan"),
        silence_opening=float(quiet.max() / np.median(peaks)) if len(quiet) else float("nan"),
    )


def follow(
    predicted: list[Float[np.ndarray, " T"]], true: list[Float[np.ndarray, " T"]]
) -> tuple[float, int]:
    """Say how well openings follow the true ones, and how late.

    Args:
        predicted: one array per clip; frames that are NaN here or in `true` do not count.
        true: of the same lengths, each more than five frames.

    Returns:
        Pearson's correlation over all frames of all clips (0 where one does not move), and the
        shift of the prediction (positive: late) with the highest one, within 5 frames.
    """
    by_shift = {
        k: _correlation(*_shifted(predicted, true, k)) for k in range(-_SEARCH, _SEARCH + 1)
    }
    return by_shift[0], max(by_shift, key=by_shift.__getitem__)


def _shifted(
    predicted: list[np.ndarray], true: list[np.ndarray], shift: int
) -> tuple[np.ndarray, np.ndarray]:
    """Line up the prediction `shift` frames earlier with the truth, over all clips."""
    pairs = []
    for p, t in zip(predicted, true, strict=True):
        if shift >= 0:
            pairs.append((p[shift:], t[: len(t) - shift]))
        else:
            pairs.append((p[:shift], t[-shift:]))
    return np.concatenate([p for p, _ in pairs]), np.concatenate([t for _, t in pairs])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _frames(phone: Phone, count: int, margin: float) -> slice:
    """Frames whose centre lies within a sound, widened by `margin` frames."""
    first = int(np.ceil(phone.start * FPS - 0.5 - margin))
    last = int(np.floor(phone.end * FPS - 0.5 + margin))
    return slice(max(first, 0), min(max(last, first) + 1, count))


def _vowel_peak(opened: np.ndarray, phones: tuple[Phone, ...]) -> float:
    spans = [opened[_frames(p, len(opened), 0.0)] for p in phones if p.symbol in VOWELS]
    return max((float(s.max()) for s in spans if len(s)), default=0.0)


def _minima(opened: np.ndarray, phones: tuple[Phone, ...]) -> list[float]:
    spans = [opened[_frames(p, len(opened), 0.5)] for p in phones if p.symbol in BILABIALS]
    return [float(s.min()) for s in spans if len(s)]


def _silent_frames(phones: tuple[Phone, ...], count: int) -> np.ndarray:
    """Return which frames are at least 0.2 s away from any speech."""
    time = (np.arange(count) + 0.5) / FPS
    far = np.ones(count, bool)
    for phone in phones:
        if phone.symbol != "SIL":
            far &= (time < phone.start - 0.2) | (time > phone.end + 0.2)
    return far
