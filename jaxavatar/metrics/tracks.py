"""Face and hands of one person through a video, each frame by itself.

Landmarks are not smoothed over time, so that what trembles in the video trembles here too. What is
not found is NaN.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from jaxavatar.perception import face, hands, pose
from jaxavatar.structs import PoseLandmarks

SHOULDERS = (11, 12)


@dataclasses.dataclass(frozen=True)
class Sighting:
    """What one frame shows, in its pixels.

    Attributes:
        face: x, y and depth.
        hands: the person's left and right.
        scores: the hand network's confidence in each, [0, 1].
        shoulders: their distance.
        body: the person, or None; see `sight`.
    """

    face: Float[np.ndarray, "478 3"]
    hands: Float[np.ndarray, "2 21 2"]
    scores: Float[np.ndarray, " 2"]
    shoulders: float
    body: PoseLandmarks | None = None


@dataclasses.dataclass(frozen=True)
class Track:
    """Sightings of T frames; see `Sighting`."""

    face: Float[np.ndarray, "T 478 3"]
    hands: Float[np.ndarray, "T 2 21 2"]
    scores: Float[np.ndarray, "T 2"]
    shoulders: Float[np.ndarray, " T"]


def sight(frame: UInt8[np.ndarray, "H W 3"], body: PoseLandmarks | None = None) -> Sighting:
    """Find the largest person's face and hands with the networks of `perception`.

    Args:
        frame: of the video.
        body: the same person a few frames earlier. It says where to look, which saves time, and
            is sought anew when no face shows there.
    """
    image = np.asarray(frame, np.float32) / 255
    seen = None if body is None else face.find(image, body)
    if body is None or seen is None:
        people = pose.find(image, most=1)
        if not people:
            return Sighting(*_nothing(), shoulders=float("nan"))
        body = people[0].landmarks
        seen = face.find(image, body)
    points, palms, scores = _nothing()
    if seen is not None:
        points = np.concatenate([seen.points, seen.depth[:, None]], axis=1)
    for side, hand in enumerate(hands.find(image, body)):
        if hand is not None:
            palms[side], scores[side] = hand.points, hand.score
    shoulders = float(np.linalg.norm(body.points[SHOULDERS[0]] - body.points[SHOULDERS[1]]))
    return Sighting(points, palms, scores, shoulders, body)


def _nothing() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.full((478, 3), np.nan), np.full((2, 21, 2), np.nan), np.full(2, np.nan)


def join(sightings: Sequence[Sighting]) -> Track:
    """Put the frames of a video one after the other."""
    return Track(
        face=np.stack([s.face for s in sightings]),
        hands=np.stack([s.hands for s in sightings]),
        scores=np.stack([s.scores for s in sightings]),
        shoulders=np.array([s.shoulders for s in sightings]),
    )
