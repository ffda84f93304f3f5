"""Body landmarks: find people, then 33 landmarks of one of them (BlazePose).

Source: Bazarevsky et al., "BlazePose" (2020), and MediaPipe's pose_landmark graphs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.perception import networks
from jaxavatar.perception.crops import Box, box, cut, to_image
from jaxavatar.perception.detect import PERSON, Detection, detect
from jaxavatar.perception.tflite import Network
from jaxavatar.structs import PoseLandmarks

SIZE = 256
POINTS = 33
LEAST_SCORE = 0.5
# Two of the network's auxiliary points span the person's circle: hips' midpoint, point above.
_CIRCLE = [33, 34]


def landmarks_in_crop(
    network: Network, crop: Float[Array, "256 256 3"]
) -> tuple[Float[Array, "39 3"], Float[Array, " 39"], Float[Array, ""], Float[Array, "256 256"]]:
    """Find the landmarks of a person who fills a crop, upright.

    Pure, and differentiable with respect to the crop.

    Args:
        network: "pose-landmark".
        crop: in [0, 1].

    Returns:
        Points (x, y, depth in crop pixels; the first 33 are the body's), their visibility, the
        network's score that a person is there, and the person's mask, all in [0, 1].
    """
    values, score, mask, heatmaps, _ = network(crop)
    values = values.reshape(39, 5)
    points = refine(values[:, :2], jax.nn.sigmoid(heatmaps))
    depth, visibility = values[:, 2:3], jax.nn.sigmoid(values[:, 3])
    return (
        jnp.concatenate([points, depth], -1),
        visibility,
        score[0],
        jax.nn.sigmoid(mask[..., 0]),
    )


def refine(
    points: Float[Array, "L 2"], heatmaps: Float[Array, "h w L"], least: float = 0.5
) -> Float[Array, "L 2"]:
    """Move each point to the centre of mass of its heat map, within 3 cells of it.

    Points outside the map, or whose heat stays below `least`, keep their place.

    Args:
        points: crop pixels.
        heatmaps: in [0, 1].
        least: heat that a point must reach somewhere in its window.
    """
    cells = heatmaps.shape[0]
    scale = SIZE / cells
    cell = jnp.floor(points / scale)
    x, y = cell[:, 0], cell[:, 1]
    grid = jnp.arange(cells)
    window = (abs(grid[:, None] - y) <= 3)[:, None] & (abs(grid[:, None] - x) <= 3)[None]
    heat = jnp.where(window, heatmaps, 0)
    total = jnp.maximum(heat.sum((0, 1)), 1e-6)
    column, row = (heat.sum(0) * grid[:, None]).sum(0), (heat.sum(1) * grid[:, None]).sum(0)
    mean = jnp.stack([column, row], -1) / total[:, None] * scale
    sure = (heat.max((0, 1)) >= least) & jnp.all((cell >= 0) & (cell < cells), -1)
    return jnp.where(sure[:, None], mean, points)


_landmarks = jax.jit(landmarks_in_crop)


@dataclasses.dataclass(frozen=True)
class Person:
    """One person in a photo.

    Attributes:
        landmarks: of the body.
        place: the crop they were found in; it circumscribes the whole body.
        mask: which pixels of that crop are the person, roughly, in [0, 1].
    """

    landmarks: PoseLandmarks
    place: Box
    mask: Float[np.ndarray, "256 256"]


def find(image: Float[np.ndarray, "H W 3"], most: int = 5) -> list[Person]:
    """Find people and their landmarks.

    Args:
        image: in [0, 1].
        most: how many detections to look into.

    Returns:
        The people, the largest first.
    """
    people: list[Person] = []
    for detection in detect(PERSON, image)[:most]:
        if people and detection.score < LEAST_SCORE:
            break  # one person may be unsure, a second one only clutters
        person = landmarks_of(image, detection)
        if person.landmarks.score >= LEAST_SCORE and not any(_same(person, p) for p in people):
            people.append(person)
    return sorted(people, key=lambda person: -float(person.place.size[0]))


def landmarks_of(image: Float[np.ndarray, "H W 3"], detection: Detection) -> Person:
    """Find the landmarks of a detected person.

    The network runs twice: the second crop comes from the first one's own circle, which is more
    exact than the detector's.

    Args:
        image: in [0, 1].
        detection: of a person; its first two key points are the hips' midpoint and a point on the
            circle around the person, straight above it in the person's own frame.
    """
    network = networks.load("pose-landmark")
    circle = detection.keypoints[:2]
    for _ in range(2):
        place = _around(circle)
        crop = cut(image, place, SIZE)
        points, visibility, score, mask = map(np.asarray, _landmarks(network, crop))
        spots = np.asarray(to_image(points[:, :2], place, SIZE))
        circle = spots[_CIRCLE]
    depth = points[:POINTS, 2] * (float(place.size[0]) / SIZE)
    landmarks = PoseLandmarks(spots[:POINTS], depth, visibility[:POINTS], float(score))
    return Person(landmarks, place, mask)


def _same(a: Person, b: Person) -> bool:
    """Say whether two detections ended on one person: landmarks a fraction of the body apart."""
    apart = np.linalg.norm(a.landmarks.points - b.landmarks.points, axis=1).mean()
    return bool(apart < 0.05 * min(float(a.place.size[0]), float(b.place.size[0])))


def _around(circle: Float[np.ndarray, "2 2"]) -> Box:
    """Return the upright crop around a person, a quarter larger than the circle."""
    center, (x, y) = circle[0], circle[1] - circle[0]
    turn = np.pi / 2 + np.arctan2(y, x)
    return box(center[0], center[1], 2.5 * float(np.hypot(x, y)), angle=turn)
