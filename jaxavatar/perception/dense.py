"""Keypoints of face and hands in frames, as eq. 9 of the paper wants them.

Mouth, eyes and contour of the face, and 21 points per hand, are detected in crops whose places are
given: beforehand it is known roughly where our own head and wrists are. All shapes are fixed, and
pixels lead to keypoints differentiably.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.perception import face, hands, networks
from jaxavatar.perception.crops import Box, crop, to_image
from jaxavatar.perception.tflite import Network

# Points of the face mesh: the lips' outer and inner edge, and the face's outline.
_LIPS = (
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185),
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191),
)
_OUTLINE = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
FACE = np.array([*_LIPS, *face.CONTOURS[0], *face.CONTOURS[1], *_OUTLINE], np.int32)
"""Mesh points of mouth, eyes and contour, the first keypoints; then come left and right hand."""
COUNT = len(FACE) + 42
IS_HAND = np.arange(COUNT) >= len(FACE)


@flax.struct.dataclass
class Places:
    """Where to look in R frames.

    Attributes:
        face: leaves with a leading axis R.
        hands: leaves with leading axes R and 2, the person's left and right.
    """

    face: Box
    hands: Box


@flax.struct.dataclass
class Keypoints:
    """What was found in R frames.

    Attributes:
        points: pixels.
        weights: confidence in [0, 1]; 0 where no face, or no hand, shows.
    """

    points: Float[Array, "R K 2"]
    weights: Float[Array, "R K"]


@flax.struct.dataclass
class Detectors:
    """The networks: "face-landmark-attention", "face-landmark" and "hand-landmark"."""

    face: Network
    judge: Network
    hand: Network


@flax.struct.dataclass
class _Found:
    face: Float[Array, "R 478 2"]
    hands: Float[Array, "R 2 21 2"]
    scores: Float[Array, "R 3"]


def load_detectors() -> Detectors:
    """Load the networks.

    Raises:
        InputError: a file cannot be fetched or is damaged.
    """
    names = ("face-landmark-attention", "face-landmark", "hand-landmark")
    return Detectors(*(networks.load(name) for name in names))


def places(face_points: Float[Array, "R 478 2"], hand_points: Float[Array, "R 2 21 2"]) -> Places:
    """Lay the crops around landmarks, pixels.

    Of a hand only the points `hands.STEADY` are read.
    """
    return Places(
        face=jax.vmap(face.around)(face_points),
        hands=jax.vmap(jax.vmap(hands.around))(hand_points),
    )


def detect(detectors: Detectors, frames: Float[Array, "R H W 3"], where: Places) -> Keypoints:
    """Find the keypoints, frame by frame.

    Pure, and differentiable with respect to the frames.

    Args:
        detectors: from `load_detectors`.
        frames: [0, 1].
        where: from `places`; the face should fill two thirds of its crop, a hand half of its.
    """
    return _chosen(_find(detectors, frames, where))


def detect_anew(
    detectors: Detectors, frames: Float[Array, "R H W 3"], where: Places, rounds: int = 3
) -> Keypoints:
    """Find the keypoints of frames whose face and hands lie only near the given places.

    For a teacher's frames: the crops follow what was found in them.

    Args:
        detectors: from `load_detectors`.
        frames: [0, 1].
        where: to begin with.
        rounds: how often to look.
    """

    def look(where: Places, _: None) -> tuple[Places, _Found]:
        found = _find(detectors, frames, where)
        return _closer(where, places(found.face, found.hands), found.scores), found

    _, found = jax.lax.scan(look, where, length=rounds)
    return _chosen(jax.tree.map(lambda leaf: leaf[-1], found))


def _closer(before: Places, after: Places, scores: Float[Array, "R 3"]) -> Places:
    """Go on where something was found; stay where nothing was."""

    def pick(old: Array, new: Array, seen: Array) -> Array:
        return jnp.where(seen.reshape(*seen.shape, *(1,) * (old.ndim - seen.ndim)), new, old)

    seen = scores >= face.LEAST_SCORE
    return Places(
        face=jax.tree.map(lambda a, b: pick(a, b, seen[:, 0]), before.face, after.face),
        hands=jax.tree.map(lambda a, b: pick(a, b, seen[:, 1:]), before.hands, after.hands),
    )


def _find(detectors: Detectors, frames: Float[Array, "R H W 3"], where: Places) -> _Found:
    def one(item: tuple[Array, Places]) -> _Found:
        frame, place = item
        seen = crop(frame, place.face, face.SIZE)
        mesh, score = face.landmarks_in_crop(detectors.face, seen)
        score = jnp.minimum(score, face.score_of_crop(detectors.judge, seen))
        spots, scores = [], [score]
        for side in range(2):
            box = jax.tree.map(lambda leaf, side=side: leaf[side], place.hands)
            points, sure = hands.landmarks_in_crop(detectors.hand, crop(frame, box, hands.SIZE))
            spots.append(to_image(points[:, :2], box, hands.SIZE))
            scores.append(sure)
        return _Found(
            face=jnp.asarray(to_image(mesh[:, :2], place.face, face.SIZE)),
            hands=jnp.stack(spots),
            scores=jnp.stack(scores),
        )

    return jax.lax.map(one, (frames, where))


def _chosen(found: _Found) -> Keypoints:
    sure = jax.lax.stop_gradient(jnp.where(found.scores >= face.LEAST_SCORE, found.scores, 0.0))
    owner = np.repeat(np.arange(3, dtype=np.int32), [len(FACE), 21, 21])
    points = [found.face[:, FACE], found.hands[:, 0], found.hands[:, 1]]
    return Keypoints(points=jnp.concatenate(points, axis=1), weights=sure[:, owner])
