"""Which spot of the body each detected landmark shows.

The detectors name points of skin and bone ("left elbow", "tip of the thumb", point 13 of the
face mesh). Here each name meets a joint or a surface point of the template, so that a fit can
compare the two in the image.
"""

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.body import JOINTS, BodyModel
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.structs import Findings

# BlazePose index -> joint (the person's own left and right).
_POSE_JOINTS = {
    11: "left_shoulder",
    12: "right_shoulder",
    13: "left_elbow",
    14: "right_elbow",
    15: "left_wrist",
    16: "right_wrist",
    23: "left_hip",
    24: "right_hip",
    25: "left_knee",
    26: "right_knee",
    27: "left_ankle",
    28: "right_ankle",
    31: "left_foot",
    32: "right_foot",
}
# The hand detector's order: the wrist, then four points from the palm to the tip per finger.
_FINGERS = ("thumb", "index", "middle", "ring", "pinky")

FACE_COUNT = 478
_DEPTH_SHARE = 0.4
_FACE_SHAPES = 32


@flax.struct.dataclass
class LandmarkModel:
    """The few points of the body that landmarks show, as a linear function of shape and face.

    The first 14 points are joints in the order of the pose detector, the next 42 the left and the
    right hand, the last 478 the face. Joints follow `joint_index`; surface points are skinned.

    Attributes:
        points: rest positions of the surface points (10 finger tips, then the face), metres.
        betas: change of the surface points per unit of shape: body, then face.
        expression: change of the surface points per face unit.
        weights: skinning weights of the surface points.
    """

    points: Float[Array, "P 3"]
    betas: Float[Array, "B P 3"]
    expression: Float[Array, "E P 3"]
    weights: Float[Array, "P J"]


@flax.struct.dataclass
class Targets:
    """What the detectors saw, aligned with `assemble`; weight 0 marks what was not seen.

    Attributes:
        points: pixels.
        weights: one over the standard deviation in pixels.
        depth: pixels, relative to `depth_origin`'s group, away from the camera positive.
        depth_weights: one over the standard deviation in pixels.
    """

    points: Float[np.ndarray, "L 2"]
    weights: Float[np.ndarray, " L"]
    depth: Float[np.ndarray, " L"]
    depth_weights: Float[np.ndarray, " L"]


def joint_rows() -> np.ndarray:
    """Return the joint index of the first 14 points."""
    return np.array([JOINTS.index(name) for name in _POSE_JOINTS.values()])


def hand_joints(side: str) -> np.ndarray:
    """Return for the 21 points of a hand the joint index, or -1 - k for finger tip k."""
    rows = [JOINTS.index(f"{side}_wrist")]
    for k, finger in enumerate(_FINGERS):
        rows += [JOINTS.index(f"{side}_{finger}{i}") for i in (1, 2, 3)] + [-1 - k]
    return np.array(rows)


def landmark_model(model: BodyModel) -> LandmarkModel:
    """Reduce the body to the surface points that landmarks show (10 finger tips, 478 face)."""
    corners, mix = load_face_landmarks()
    tips = [_finger_tip(model, f"{s}_{f}") for s in ("left", "right") for f in _FINGERS]
    corners = np.concatenate([np.repeat(np.array(tips)[:, None], 3, 1), corners])
    mix = np.concatenate([np.tile([1.0, 0.0, 0.0], (10, 1)), mix])

    def gather(values: Array, axis: int) -> np.ndarray:
        """Mix per-vertex values into per-landmark values along the vertex axis."""
        picked = np.moveaxis(np.asarray(values), axis, 0)[corners]
        shape = mix.shape + (1,) * (picked.ndim - 2)
        mixed = (picked * mix.reshape(shape)).sum(1, dtype=np.float32)
        return np.moveaxis(mixed, 0, axis)

    faces = gather(model.identity_dirs, 1)[:_FACE_SHAPES]
    return LandmarkModel(
        points=jnp.asarray(gather(model.vertices, 0)),
        betas=jnp.asarray(np.concatenate([gather(model.betas, 1), faces])),
        expression=jnp.asarray(gather(model.expression_dirs, 1)),
        weights=jnp.asarray(gather(model.weights, 0)),
    )


def shape_directions(model: BodyModel) -> tuple[Float[Array, "B V 3"], Float[Array, "B J 3"]]:
    """Return the shape directions a fit uses, body then face, and how the joints follow."""
    face = slice(0, _FACE_SHAPES)
    return (
        jnp.concatenate([model.betas, model.identity_dirs[face]]),
        jnp.concatenate([model.beta_joints, model.identity_joints[face]]),
    )


def _finger_tip(model: BodyModel, finger: str) -> int:
    """Return the vertex of a finger that is farthest from its last joint, away from the palm."""
    joints, vertices = np.asarray(model.joints), np.asarray(model.vertices)
    last, before = JOINTS.index(f"{finger}3"), JOINTS.index(f"{finger}2")
    direction = joints[last] - joints[before]
    reach = (vertices - joints[last]) @ direction
    reach[np.asarray(model.weights)[:, last] < 0.5] = -np.inf
    return int(np.argmax(reach))


def assemble(joints: Float[Array, "J 3"], surface: Float[Array, "P 3"]) -> Float[Array, "L 3"]:
    """Order posed joints and surface points as `Targets` does: pose, hands, face."""
    parts = [joints[joint_rows()]]
    for first_tip, side in ((0, "left"), (5, "right")):
        rows = hand_joints(side)
        source = jnp.concatenate([joints, surface[first_tip : first_tip + 5]])
        parts.append(source[np.where(rows >= 0, rows, len(JOINTS) - 1 - rows)])
    return jnp.concatenate([*parts, surface[10:]])


def targets(findings: Findings) -> Targets:
    """Collect the detections with their expected errors.

    The deviations are those of the detectors on photos where the truth is known, relative to the
    size of what they look at: 3 % of the shoulder width for the pose, 3 % of a hand's length,
    0.7 % of the face's height. Depths are guesses of the networks and weigh little.
    """
    pose = findings.pose
    shoulders = max(float(np.linalg.norm(pose.points[11] - pose.points[12])), 1.0)
    rows = np.array(list(_POSE_JOINTS))
    seen = pose.visibility[rows] > 0.5
    sigma = np.full(14, 0.03 * shoulders)
    # Hips and shoulders are named loosely: the detector's hip is not the template's joint.
    sigma[[6, 7]] *= 2.0
    sigma[[2, 3]] *= 0.5  # nothing else tells where an elbow is
    points, weights = [pose.points[rows]], [seen / sigma]
    # The network tilts people towards the camera and exaggerates: of its depths only those of
    # elbows and wrists relative to the shoulders are used, at a fraction.
    depth = [_DEPTH_SHARE * (pose.depth[rows] - pose.depth[[11, 12]].mean())]
    depth_weights = [seen * np.isin(np.arange(14), (2, 3, 4, 5)) / (0.3 * shoulders)]

    for hand in (findings.left_hand, findings.right_hand):
        if hand is None:
            points.append(np.zeros((21, 2)))
            weights.append(np.zeros(21))
            depth.append(np.zeros(21))
            depth_weights.append(np.zeros(21))
            continue
        length = max(float(np.ptp(hand.points, 0).max()), 1.0)
        points.append(hand.points)
        weights.append(np.full(21, 1.0 / (0.03 * length)))
        depth.append(hand.depth - hand.depth[0])
        depth_weights.append(np.full(21, 1.0 / (0.15 * length)))

    face = findings.face
    if face is None:
        points.append(np.zeros((FACE_COUNT, 2)))
        weights.append(np.zeros(FACE_COUNT))
        depth.append(np.zeros(FACE_COUNT))
        depth_weights.append(np.zeros(FACE_COUNT))
    else:
        height = max(float(np.ptp(face.points[:, 1])), 1.0)
        points.append(face.points)
        weights.append(np.full(FACE_COUNT, 1.0 / (0.007 * height) / 4))
        depth.append(face.depth - face.depth[:468].mean())
        depth_weights.append(np.full(FACE_COUNT, 1.0 / (0.08 * height) / 4))
    return Targets(
        points=np.concatenate(points).astype(np.float32),
        weights=np.concatenate(weights).astype(np.float32),
        depth=np.concatenate(depth).astype(np.float32),
        depth_weights=np.concatenate(depth_weights).astype(np.float32),
    )
