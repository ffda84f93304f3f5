"""Face landmarks: 478 points with irises, in a crop around the head (attention mesh).

Source: Grishchenko et al., "Attention Mesh" (2020), and MediaPipe's face_landmark graphs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.perception import networks
from jaxavatar.perception.crops import Box, Points, box, cut, square, to_crop, to_image
from jaxavatar.perception.tflite import Network
from jaxavatar.structs import FaceLandmarks, PoseLandmarks

SIZE = 192
POINTS = 478
LEAST_SCORE = 0.5
# Mesh points at the eyes' outer corners; the line between them is the face's horizontal.
CORNERS = (33, 263)
# Body landmarks of the left and the right eye.
EYES = [2, 5]
# The contour of each eye, whose mean depth an iris takes (MediaPipe's refinement).
CONTOURS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
)


def landmarks_in_crop(
    network: Network, crop: Float[Array, "192 192 3"]
) -> tuple[Float[Array, "478 3"], Float[Array, ""]]:
    """Find the landmarks of an upright face that fills two thirds of a crop.

    Pure, and differentiable with respect to the crop.

    Args:
        network: "face-landmark-attention".
        crop: in [0, 1].

    Returns:
        Points (x, y, depth in crop pixels, depth towards the camera negative) and the network's
        score in [0, 1] that this is a face. With a low score the points mean nothing.
    """
    mesh, lips, eye, other_eye, iris, other_iris, flag = (out.ravel() for out in network(crop))
    points = mesh.reshape(468, 3)
    # The graph's own patch operations list which mesh points each part refines.
    patches = [op.options for op in network.graph.ops if op.kind == "Landmarks2TransformMatrix"]
    for options, part in zip(patches, (lips, eye, other_eye), strict=True):
        refined = np.asarray(options["subset_idxs"])
        points = points.at[refined, :2].set(part.reshape(-1, 2))
    for contour, part in zip(CONTOURS, (iris, other_iris), strict=True):
        depth = jnp.full((5, 1), points[np.asarray(contour), 2].mean())
        points = jnp.concatenate([points, jnp.concatenate([part.reshape(5, 2), depth], -1)])
    return points, jax.nn.sigmoid(flag[0])


def score_of_crop(network: Network, crop: Float[Array, "192 192 3"]) -> Float[Array, ""]:
    """Judge whether a crop shows a face, in [0, 1].

    The attention graph's own score takes a covered face between hair and collar for a face; the
    plain graph's score does not.

    Args:
        network: "face-landmark".
        crop: in [0, 1], as for `landmarks_in_crop`.
    """
    _, flag = network(crop)
    return jax.nn.sigmoid(flag.ravel()[0])


_landmarks = jax.jit(landmarks_in_crop)
_score = jax.jit(score_of_crop)


def head_box(pose: PoseLandmarks) -> Box:
    """Return an upright box around the head, as the body's landmarks show it.

    The box is centred between eyes, ears, nose and mouth; its side is three times the larger of
    the ears' distance and twice the height from the eyes to the mouth.
    """
    points = pose.points[:11]
    center = points.mean(0)
    ears = np.linalg.norm(points[7] - points[8])
    eyes_to_mouth = np.linalg.norm(points[1:7].mean(0) - points[9:11].mean(0))
    return box(center[0], center[1], float(3 * max(ears, 2 * eyes_to_mouth)))


def find(image: Float[np.ndarray, "H W 3"], pose: PoseLandmarks) -> FaceLandmarks | None:
    """Find the landmarks of the face of a person whose body is known.

    The body's landmarks say where the face is, which works for faces too small for a detector.
    The network runs three times, each crop laid around the previous landmarks; by then the points
    move less than 0.3 % of the face's width.

    Args:
        image: in [0, 1].
        pose: the person.

    Returns:
        The landmarks, or None where no face shows (turned away, hidden, or outside the photo).
    """
    network, judge = networks.load("face-landmark-attention"), networks.load("face-landmark")
    head = head_box(pose)
    place = _level(
        np.asarray(head.center), 0.6 * float(head.size[0]), np.subtract(*pose.points[EYES])
    )
    for _ in range(3):
        crop = cut(image, place, SIZE)
        points, score = map(np.asarray, _landmarks(network, crop))
        score = min(float(score), float(_score(judge, crop)))
        if score < LEAST_SCORE:
            return None
        spots, scale = np.asarray(to_image(points[:, :2], place, SIZE)), float(place.size[0]) / SIZE
        place = around(spots)
    return FaceLandmarks(spots, points[:, 2] * scale, score)


def around(points: Float[Points, "478 2"]) -> Box:
    """Return the crop around a face: 1.5 times its bounding square, level with its eyes.

    Landmarks on the device give a box there.
    """
    across = points[CORNERS[1]] - points[CORNERS[0]]
    level = _level(0 * across, 1, across)
    turned = to_crop(points, level, 1)
    low, high = turned.min(0), turned.max(0)
    center = to_image((low + high) / 2, level, 1)
    return _level(center, 1.5 * (high - low).max(), across)


def _level(center: Points, side: Points | float, across: Points) -> Box:
    xp = jnp if isinstance(across, Array) else np
    return square(center, side, xp.arctan2(across[1], across[0]))
