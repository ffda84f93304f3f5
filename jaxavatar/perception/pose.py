"""Body landmarks: find people, then 33 landmarks of one of them (BlazePose).

Source: Bazarevsky et al., "BlazePose" (2020), and MediaPipe's pose_landmark graphs.
"""

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


def people(image: Float[Array, "H W 3"]) -> list[Detection]:
    """Find people, the largest first.

    Args:
        image: in [0, 1].

    Returns:
        Detections whose first two key points span the person: hips' midpoint, and a point on the
        circle around the person.
    """
    return sorted(detect(PERSON, image), key=lambda person: -_radius(person.keypoints))


def find(
    image: Float[Array, "H W 3"], person: Detection
) -> tuple[PoseLandmarks, Box, Float[np.ndarray, "256 256"]]:
    """Find the landmarks of a detected person.

    The network runs twice: the second crop comes from the first one's own circle, which is more
    exact than the detector's.

    Args:
        image: in [0, 1].
        person: from `people`.

    Returns:
        The landmarks, the crop they were found in, and the person's mask in that crop.
    """
    network = networks.load("pose-landmark")
    place = _around(person.keypoints)
    for _ in range(2):
        points, visibility, score, mask = _landmarks(network, cut(image, place, SIZE))
        spots, used = np.asarray(to_image(points[:, :2], place, SIZE)), place
        place = _around(spots[_CIRCLE])
    depth = np.asarray(points[:POINTS, 2]) * (float(used.size[0]) / SIZE)
    found = PoseLandmarks(spots[:POINTS], depth, np.asarray(visibility[:POINTS]), float(score))
    return found, used, np.asarray(mask)


def _radius(keypoints: Float[np.ndarray, "K 2"]) -> float:
    return float(np.linalg.norm(keypoints[1] - keypoints[0]))


def _around(keypoints: Float[np.ndarray, "K 2"]) -> Box:
    """Return the upright crop around a person, a quarter larger than the circle."""
    center, (x, y) = keypoints[0], keypoints[1] - keypoints[0]
    turn = np.pi / 2 + np.arctan2(y, x)
    return box(center[0], center[1], 2.5 * _radius(keypoints), angle=turn)
