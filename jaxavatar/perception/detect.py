"""Single-shot detection of people and palms (BlazePose, BlazePalm).

A network scores a fixed grid of anchors and regresses, relative to each, a box and some key
points; overlapping detections are averaged by score. Source: Bazarevsky et al., "BlazeFace"
(2019), and MediaPipe's detector configurations.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.perception import networks
from jaxavatar.perception.crops import Box, box, cut, to_image
from jaxavatar.perception.tflite import Network


@dataclasses.dataclass(frozen=True)
class Detector:
    """What MediaPipe fixes per detector.

    Attributes:
        network: name in the weights registry.
        size: of the input, pixels.
        strides: of the feature maps; every entry stands for two anchors per cell.
        low: the network's value for black; white is 1.
        threshold: least score that counts.
    """

    network: str
    size: int
    strides: tuple[int, ...]
    low: float
    threshold: float = 0.5


PALM = Detector("palm-detection", 192, (8, 16, 16, 16), 0.0)
# A hidden face halves the score of a person; the landmark network then decides.
PERSON = Detector("pose-detection", 224, (8, 16, 32, 32, 32), -1.0, threshold=0.3)


@dataclasses.dataclass(frozen=True)
class Detection:
    """One detection, photo pixels.

    Attributes:
        score: in [0, 1].
        center: of the box.
        size: of the box: width, height.
        keypoints: as the detector defines them.
    """

    score: float
    center: Float[np.ndarray, " 2"]
    size: Float[np.ndarray, " 2"]
    keypoints: Float[np.ndarray, "K 2"]


def anchors(detector: Detector) -> Float[np.ndarray, "A 2"]:
    """Return the anchors' centres in [0, 1], in the network's order.

    Feature maps of the same stride share their cells: all their anchors of a cell come together.
    """
    parts = []
    for stride in dict.fromkeys(detector.strides):
        cells = detector.size // stride
        y, x = (np.mgrid[:cells, :cells] + 0.5) / cells
        centers = np.stack([x, y], -1).reshape(-1, 2)
        parts.append(np.repeat(centers, 2 * detector.strides.count(stride), axis=0))
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=2)
def candidates(
    network: Network, crop: Float[Array, "S S 3"], detector: Detector
) -> tuple[Float[Array, " A"], Float[Array, "A K 2"]]:
    """Score all anchors of a crop.

    Args:
        network: the detector's.
        crop: in [0, 1].
        detector: its constants.

    Returns:
        Scores in [0, 1], and points in crop pixels: box centre, box size, then the key points.
    """
    regressed, logits = network(crop * (1 - detector.low) + detector.low)
    points = regressed.reshape(len(regressed), -1, 2)
    relative = jnp.arange(points.shape[1]) != 1  # all but the size
    origin = jnp.asarray(anchors(detector), jnp.float32) * detector.size
    return jax.nn.sigmoid(logits[:, 0]), points + origin[:, None] * relative[:, None]


def detect(
    detector: Detector, image: Float[np.ndarray, "H W 3"], place: Box | None = None
) -> list[Detection]:
    """Find things in an image, or in a part of it.

    Args:
        detector: PALM or PERSON.
        image: in [0, 1].
        place: where to look, unrotated; the whole image, squared by black borders, by default.

    Returns:
        Detections above the detector's threshold, the surest first.
    """
    if place is None:
        height, width = image.shape[:2]
        place = box(width / 2, height / 2, max(height, width))
    scores, points = candidates(
        networks.load(detector.network), cut(image, place, detector.size), detector
    )
    scores, points = np.asarray(scores), np.asarray(points)
    sure = np.argsort(-scores)[: np.count_nonzero(scores > detector.threshold)]
    found = []
    for score, merged in suppress(scores[sure], points[sure]):
        spots = np.asarray(to_image(np.delete(merged, 1, axis=0), place, detector.size))
        size = merged[1] / detector.size * np.asarray(place.size)
        found.append(Detection(score, spots[0], size, spots[1:]))
    return found


def suppress(
    scores: Float[np.ndarray, " A"], points: Float[np.ndarray, "A K 2"], overlap: float = 0.3
) -> list[tuple[float, Float[np.ndarray, "K 2"]]]:
    """Merge overlapping candidates: all that overlap the best are averaged by score.

    Args:
        scores: descending.
        points: box centre, box size, then key points.
        overlap: least intersection over union that merges.

    Returns:
        The best score and the averaged points of each group, the surest first.
    """
    low, high = points[:, 0] - points[:, 1] / 2, points[:, 0] + points[:, 1] / 2
    area = np.prod(np.maximum(points[:, 1], 0), axis=1)
    left = np.arange(len(scores))
    groups = []
    while len(left):
        best = left[0]
        shared = np.minimum(high[left], high[best]) - np.maximum(low[left], low[best])
        shared = np.prod(np.maximum(shared, 0), axis=1)
        same = shared > overlap * (area[left] + area[best] - shared)
        same[0] = True  # also when the box is degenerate
        group = left[same]
        mean = np.average(points[group], axis=0, weights=scores[group])
        groups.append((float(scores[best]), mean))
        left = left[~same]
    return groups
