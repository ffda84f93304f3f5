"""Hand landmarks: find palms, then 21 landmarks of each hand, and tell left from right.

Source: Zhang et al., "MediaPipe Hands" (2020), and MediaPipe's hand_landmark graphs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.perception import networks
from jaxavatar.perception.crops import Box, Points, box, cut, square, to_crop, to_image
from jaxavatar.perception.detect import PALM, Detection, detect
from jaxavatar.perception.tflite import Network
from jaxavatar.structs import HandLandmarks, PoseLandmarks

SIZE = 224
LEAST_SCORE = 0.5
# Body landmarks of the person's left and right side.
SHOULDERS, ELBOWS, WRISTS, INDEXES = (11, 12), (13, 14), (15, 16), (19, 20)
# Hand landmarks without the finger tips: they say where the hand is, however the fingers bend.
STEADY = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]


def landmarks_in_crop(
    network: Network, crop: Float[Array, "224 224 3"]
) -> tuple[Float[Array, "21 3"], Float[Array, ""]]:
    """Find the landmarks of a hand that fills a crop, fingers up.

    Pure, and differentiable with respect to the crop.

    Args:
        network: "hand-landmark".
        crop: in [0, 1].

    Returns:
        Points (x, y, depth in crop pixels, depth relative to the wrist) and the network's score
        in [0, 1] that this is a hand. With a low score the points mean nothing.
    """
    points, score, _, _ = network(crop)
    return points.reshape(21, 3), score[0]


_landmarks = jax.jit(landmarks_in_crop)


def find(
    image: Float[np.ndarray, "H W 3"], pose: PoseLandmarks
) -> tuple[HandLandmarks | None, HandLandmarks | None]:
    """Find the hands of a person whose body is known.

    Palms are sought in the whole photo and, where a wrist stays without a hand, closer around it.
    Left and right are told by the body's wrists; a hand further from a wrist than `_reach` is
    somebody else's.

    Args:
        image: in [0, 1].
        pose: the person.

    Returns:
        The person's own left and right hand, None where not found.
    """
    hands = _hands(image, None)
    left, right = assign(hands, pose)
    for side, found in enumerate((left, right)):
        if found is None:
            center = (pose.points[WRISTS[side]] + pose.points[INDEXES[side]]) / 2
            hands += _hands(image, box(center[0], center[1], 4 * _reach(pose)))
    return assign(hands, pose)


def assign(
    hands: list[HandLandmarks], pose: PoseLandmarks
) -> tuple[HandLandmarks | None, HandLandmarks | None]:
    """Give each wrist of the body a hand, so that the distances are least in total.

    A hand seen twice counts once. A hand beyond reach of a wrist is not given to it.

    Returns:
        Left and right hand, None where there is none.
    """
    options: list[HandLandmarks | None] = [None, *_distinct(hands)]
    reach = _reach(pose)

    def cost(side: int, hand: HandLandmarks | None) -> float:
        if hand is None:
            return reach
        return float(np.linalg.norm(hand.points[0] - pose.points[WRISTS[side]]))

    pairs = [(a, b) for a in options for b in options if a is None or a is not b]
    return min(pairs, key=lambda pair: cost(0, pair[0]) + cost(1, pair[1]))


def _reach(pose: PoseLandmarks) -> float:
    """Return how far a hand's wrist may lie from the body's: half a forearm.

    A forearm that points at the camera looks short, so the shoulders' width counts too.
    """
    forearms = pose.points[list(ELBOWS)] - pose.points[list(WRISTS)]
    shoulders = np.linalg.norm(pose.points[SHOULDERS[0]] - pose.points[SHOULDERS[1]])
    return 0.5 * float(max(np.linalg.norm(forearms, axis=1).max(), 0.5 * shoulders))


def _distinct(hands: list[HandLandmarks]) -> list[HandLandmarks]:
    """Drop hands that lie on a surer one: closer than a quarter of its extent on average."""
    kept: list[HandLandmarks] = []
    for hand in sorted(hands, key=lambda hand: -hand.score):
        away = [np.linalg.norm(hand.points - other.points, axis=1).mean() for other in kept]
        sizes = [np.ptp(other.points, axis=0).max() for other in kept]
        if all(distance > size / 4 for distance, size in zip(away, sizes, strict=True)):
            kept.append(hand)
    return kept


def _hands(image: Float[np.ndarray, "H W 3"], place: Box | None) -> list[HandLandmarks]:
    found = (_landmarks_of(image, palm) for palm in detect(PALM, image, place))
    return [hand for hand in found if hand is not None]


def _landmarks_of(image: Float[np.ndarray, "H W 3"], palm: Detection) -> HandLandmarks | None:
    """Run the landmark network twice, the second time on the first one's own crop."""
    network = networks.load("hand-landmark")
    # From the wrist to the middle finger's base; the hand reaches half a palm further up.
    wrist, middle = palm.keypoints[0], palm.keypoints[2]
    place = _upright(palm.center, float(palm.size.max()), middle - wrist, 0.5, 2.6)
    for _ in range(2):
        crop = cut(image, place, SIZE)
        points, score = map(np.asarray, _landmarks(network, crop))
        if score < LEAST_SCORE:
            return None
        spots, scale = np.asarray(to_image(points[:, :2], place, SIZE)), float(place.size[0]) / SIZE
        place = around(spots)
    return HandLandmarks(spots, points[:, 2] * scale, float(score))


def around(points: Float[Points, "21 2"]) -> Box:
    """Return the crop around a hand from the landmarks `STEADY`; the others are not read.

    Landmarks on the device give a box there.
    """
    bases = (points[5] + points[13]) / 4 + points[9] / 2
    up = bases - points[0]
    level = _upright(0 * up, 1, up, 0, 1)
    turned = to_crop(points[np.array(STEADY)], level, 1)
    low, high = turned.min(0), turned.max(0)
    center = to_image((low + high) / 2, level, 1)
    return _upright(center, (high - low).max(), up, 0.1, 2.0)


def _upright(center: Points, side: Points | float, up: Points, shift: float, scale: float) -> Box:
    """Return a box whose top points along `up`: moved that way by `shift` sides, then scaled."""
    xp = jnp if isinstance(up, Array) else np
    length = xp.sqrt(xp.maximum((up**2).sum(), 1e-12))
    center = center + shift * side * up / length
    return square(center, scale * side, np.pi / 2 + xp.arctan2(up[1], up[0]))
