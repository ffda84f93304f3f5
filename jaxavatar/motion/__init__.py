"""Recorded body motion: files of SMPL-X parameters to the pose of an avatar, and back."""

from jaxavatar.motion.clip import MotionCamera, MotionClip, at_video_rate, lasting
from jaxavatar.motion.driven import driven_clip, mouth_opening
from jaxavatar.motion.load import load_motion
from jaxavatar.motion.project import Projection, project
from jaxavatar.motion.retarget import (
    expression_of_jaw,
    jaw_of_opening,
    motion_camera,
    motion_deltas,
)
from jaxavatar.motion.smplx_npz import save_motion

__all__ = [
    "MotionCamera",
    "MotionClip",
    "Projection",
    "at_video_rate",
    "driven_clip",
    "expression_of_jaw",
    "jaw_of_opening",
    "lasting",
    "load_motion",
    "motion_camera",
    "motion_deltas",
    "mouth_opening",
    "project",
    "save_motion",
]
