"""The parametric body: skeleton, kinematics, skinning, the template and SMPL-X files."""

from jaxavatar.body.kinematics import local_transforms, posed_joints, skinning_transforms
from jaxavatar.body.mesh import vertex_normals
from jaxavatar.body.skeleton import (
    FINGERS,
    JOINTS,
    LANDMARKS,
    LEFT_HAND,
    PARENTS,
    REGIONS,
    RIGHT_HAND,
    VERTEX_GROUPS,
)
from jaxavatar.body.skinning import inverse_skin, skin
from jaxavatar.body.smplx import load_smplx
from jaxavatar.body.template import BodyModel, load_template, pose_vertices, shaped

__all__ = [
    "FINGERS",
    "JOINTS",
    "LANDMARKS",
    "LEFT_HAND",
    "PARENTS",
    "REGIONS",
    "RIGHT_HAND",
    "VERTEX_GROUPS",
    "BodyModel",
    "inverse_skin",
    "load_smplx",
    "load_template",
    "local_transforms",
    "pose_vertices",
    "posed_joints",
    "shaped",
    "skin",
    "skinning_transforms",
    "vertex_normals",
]
