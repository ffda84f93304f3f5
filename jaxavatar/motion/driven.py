"""What the driver does to an avatar, as a clip of joint rotations."""

import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Float

from jaxavatar.body import JOINTS, LANDMARKS, load_template, local_transforms
from jaxavatar.motion.clip import MotionClip
from jaxavatar.motion.project import project
from jaxavatar.motion.retarget import jaw_of_opening
from jaxavatar.structs import FPS, Avatar

_LIPS = [LANDMARKS.index("upper_lip_inner"), LANDMARKS.index("lower_lip_inner")]


def driven_clip(
    avatar: Avatar,
    transforms: Float[np.ndarray, "T M 7"],
    landmarks: Float[np.ndarray, "T K 3"],
) -> tuple[MotionClip, Float[np.ndarray, "T M"]]:
    """Turn the driver's motion into rotations relative to the T-pose.

    T_{m,t} is composed with the rest pose and projected on rotations (`project`). The jaw's angle
    comes from the gap between the lips, since the Gaussian head opens the mouth: it is that of
    jawOpen at the same share of its full gap. The rest of what the head does is left out.

    Args:
        avatar: whom the driver moved.
        transforms: T_{m,t} relative to the rest pose, from `stream.stream_motion`.
        landmarks: posed centres of `avatar.landmarks`, metres, from there too.

    Returns:
        The clip, in the camera's frame, and how far each joint is from where the driver has it,
        metres.
    """
    rest = local_transforms(avatar.rest.rotations, avatar.rest.translation)
    local = rest @ jaxlie.SE3(jnp.asarray(transforms))
    fitted = project(
        np.asarray(avatar.joints),
        np.asarray(local.rotation().as_matrix(), float),
        np.asarray(local.translation(), float),
    )
    rotations = fitted.rotations.copy()
    rotations[:, JOINTS.index("jaw")] = jaw_of_opening(mouth_opening(avatar, landmarks))
    present = np.ones(len(JOINTS), bool)
    clip = MotionClip(rotations, fitted.translation, present, float(FPS), None, ())
    return clip, fitted.error


def mouth_opening(avatar: Avatar, landmarks: Float[np.ndarray, "T K 3"]) -> Float[np.ndarray, " T"]:
    """Return how far the mouth is open: 0 closed, 1 the gap of the face unit jawOpen.

    Args:
        avatar: whose landmarks these are.
        landmarks: posed centres of `avatar.landmarks`, metres.
    """
    index = np.asarray(avatar.landmarks)[_LIPS]
    lips = np.asarray(avatar.means, float)[index]
    unit = load_template().expression_names.index("jawOpen")
    opened = lips + np.asarray(avatar.face_units, float)[index, unit]
    closed, full = (np.linalg.norm(pair[0] - pair[1]) for pair in (lips, opened))
    gap = np.linalg.norm(landmarks[:, _LIPS[0]] - landmarks[:, _LIPS[1]], axis=-1)
    return np.clip((gap - closed) / (full - closed), 0, 1)
