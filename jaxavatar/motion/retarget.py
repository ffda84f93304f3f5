"""A motion on an avatar: what `animate.pose_avatar` takes, and the motion's cameras.

Rotations are local and relative to the T-pose, so they carry over to a body of other proportions
as they are; the T-pose of the packaged template is SMPL-X's. Its collars begin at the sternum
(SMPL-X's half way to the shoulder) and its hips lie further out, so the same angles of these
joints move the shoulders and thighs somewhat further.

The mouth of an avatar opens by the face unit jawOpen, with teeth and tongue, and not by its jaw
joint, so jaw angles become face units. An angle means the unit that displaces the middle of the
lower lip as far: jawOpen = 1 is 0.36 rad, jawLeft = 1 is 0.07 rad (measured on the template).
"""

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from pallas_splat import Camera
from scipy.spatial.transform import Rotation

from jaxavatar.body import JOINTS, LANDMARKS, load_template
from jaxavatar.motion.clip import MotionClip
from jaxavatar.structs import Avatar, BodyPose

Placement = Literal["photo", "camera"]

_JAW = JOINTS.index("jaw")


def motion_deltas(avatar: Avatar, clip: MotionClip, placement: Placement = "photo") -> BodyPose:
    """Return the clip relative to the avatar's rest pose, for `animate.pose_avatar`.

    Joints that the clip does not have stay at rest.

    Args:
        avatar: whom to move.
        clip: T frames.
        placement: "photo" puts the pelvis of the first frame where the photo has it, and later
            frames relative to it, so that the person stays in the picture; "camera" puts it where
            the clip says, for the clip's own cameras (`motion_camera`).
    """
    rest = Rotation.from_rotvec(np.asarray(avatar.rest.rotations, float))
    frames = len(clip.rotations)
    rotations = np.zeros((frames, len(JOINTS), 3))
    for m in np.flatnonzero(clip.present).tolist():
        rotations[:, m] = (rest[m].inv() * Rotation.from_rotvec(clip.rotations[:, m])).as_rotvec()
    rotations[:, _JAW] = 0
    home = clip.translation[0]
    if placement == "camera":
        home = np.asarray(avatar.joints[0], float) + np.asarray(avatar.rest.translation, float)
    return BodyPose(
        rotations=jnp.asarray(rotations, jnp.float32),
        translation=jnp.asarray(clip.translation - home, jnp.float32),
        expression=jnp.asarray(expression_of_jaw(clip.present[_JAW] * clip.rotations[:, _JAW])),
    )


def expression_of_jaw(rotations: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T E"]:
    """Turn jaw rotations into face units: opening (x) and sideways (y), at most full ones."""
    names = load_template().expression_names
    units = np.zeros((len(rotations), len(names)), np.float32)
    for unit, axis, sign in (("jawOpen", 0, 1), ("jawLeft", 1, 1), ("jawRight", 1, -1)):
        share = sign * rotations[:, axis] / _full_angle(unit)
        units[:, names.index(unit)] = np.clip(share, 0, 1)
    return units


def jaw_of_opening(opening: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 3"]:
    """Return jaw rotations that open the mouth as far as jawOpen = `opening` does."""
    return opening[:, None] * np.array([_full_angle("jawOpen"), 0, 0])


@functools.cache
def _full_angle(unit: str) -> float:
    """Return the angle about the jaw joint that moves the lower lip as far as a full face unit."""
    template = load_template()
    vertex = int(template.landmarks[LANDMARKS.index("lower_lip_inner")])
    moved = template.expression_dirs[template.expression_names.index(unit), vertex]
    lever = template.vertices[vertex] - template.joints[_JAW]
    # Opening turns about x, so that x does not count; the other units are sideways: along x only.
    plane = np.array([0, 1, 1]) if unit == "jawOpen" else np.array([1, 0, 0])
    arm = np.array([0, 1, 1]) if unit == "jawOpen" else np.array([1, 0, 1])
    chord = np.linalg.norm(plane * moved) / np.linalg.norm(arm * lever)
    return float(2 * np.arcsin(chord / 2))


def motion_camera(clip: MotionClip, size: int) -> Camera:
    """Return the clip's own camera for each frame, at the origin: the pose is in its frame.

    Args:
        clip: T frames.
        size: longer side of the image, pixels; both sides are rounded to even numbers.

    Raises:
        ValueError: the motion has no cameras.
    """
    if clip.camera is None:
        raise ValueError("the motion has no cameras")
    width, height = clip.camera.size
    scale = size / max(width, height)
    columns, rows = (max(2, 2 * round(side * scale / 2)) for side in (width, height))
    stretch = np.array([columns / width, rows / height])
    frames = len(clip.rotations)
    K = np.zeros((frames, 3, 3), np.float32)
    K[:, 0, 0], K[:, 1, 1] = (clip.camera.focal * stretch).T
    K[:, :2, 2] = clip.camera.centre * stretch
    K[:, 2, 2] = 1
    viewmat = np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
    return Camera(viewmat=jnp.asarray(viewmat), K=jnp.asarray(K), width=columns, height=rows)
