"""The parametric body: skeleton, kinematics, skinning, the template and SMPL-X files."""

from jaxavatar.body.kinematics import local_transforms, posed_joints, skinning_transforms
from jaxavatar.body.skeleton import JOINTS, LEFT_HAND, PARENTS, RIGHT_HAND
from jaxavatar.body.skinning import inverse_skin, skin

__all__ = [
    "JOINTS",
    "LEFT_HAND",
    "PARENTS",
    "RIGHT_HAND",
    "inverse_skin",
    "local_transforms",
    "posed_joints",
    "skin",
    "skinning_transforms",
]
