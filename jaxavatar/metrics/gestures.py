"""HKC and HKV: how sure the hands are, and how they vary.

Hand Keypoint Confidence is the average confidence of detected hand keypoints, Hand Keypoint
Variance their standard deviation (paper, sec. 4); no code of theirs is published, and the second
can be read in two ways, so both are here. MediaPipe's network has one confidence per hand, which
its 21 keypoints share; figures by other detectors (DWPose) cannot be compared with these.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from jaxavatar.metrics.tracks import Track


@dataclasses.dataclass(frozen=True)
class HandScores:
    """Of one video, over both hands and all frames in which a hand is detected.

    Attributes:
        hkc: mean confidence, in [0, 1].
        hkv_confidence: standard deviation of the confidence.
        hkv_position: standard deviation of the keypoints' positions over time, both axes together
            (root of the summed variances), mean over keypoints, in shoulder widths: how much the
            hands move.
        found: share of frames and hands with a detection.
    """

    hkc: float
    hkv_confidence: float
    hkv_position: float
    found: float


def hand_scores(track: Track) -> HandScores:
    """Score the hands of one video; see `HandScores`. Without any hand all but `found` are NaN."""
    known = track.scores[np.isfinite(track.scores)]
    if not len(known):
        return HandScores(float("nan"), float("nan"), float("nan"), 0.0)
    spreads = [_spread(track.hands[:, side]) for side in range(2)]
    return HandScores(
        hkc=float(known.mean()),
        hkv_confidence=float(known.std()),
        hkv_position=float(np.nanmean(spreads) / np.nanmedian(track.shoulders)),
        found=len(known) / track.scores.size,
    )


def _spread(points: Float[np.ndarray, "T 21 2"]) -> float:
    seen = points[np.isfinite(points).all((1, 2))]
    return float(np.sqrt(seen.var(0).sum(-1)).mean()) if len(seen) else float("nan")
