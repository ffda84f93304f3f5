"""Rigid joint transforms to the rotations of a kinematic tree, which is all that SMPL-X has.

The driver's joints also translate by some millimetres (eq. 1 predicts twists in SE(3)). With the
world transforms (Q_m, p_m) of the joints, rotations R_m are chosen from the pelvis outwards, each
to be near Q_m and to aim the bones at where their far joints really are:

    R_m = argmin  sum_c |R b_c - (p_c - x_m)|^2 + r^2 |R - Q_m|_F^2,

over the children c of m with rest bones b_c, where x_m is where the rotations chosen so far put
joint m (x_0 = p_0 exactly), and r = 5 cm is about the radius of the flesh around a bone: a point
of the skin weighs as much as the joints do. The solution is a singular value decomposition
(Kabsch). Joints without children keep Q_m.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from jaxavatar.body import JOINTS, PARENTS

RADIUS = 0.05  # metres

_CHILDREN = {m: [c for c, p in enumerate(PARENTS) if p == m] for m in range(len(JOINTS))}


@dataclasses.dataclass(frozen=True)
class Projection:
    """T frames of joint rotations, and what they cannot express.

    Attributes:
        rotations: local joint rotations, axis-angle, radians.
        translation: where the pelvis is, world metres.
        error: distance of every joint from where the rigid transforms have it, metres.
    """

    rotations: Float[np.ndarray, "T 55 3"]
    translation: Float[np.ndarray, "T 3"]
    error: Float[np.ndarray, "T 55"]


def project(
    joints: Float[np.ndarray, "55 3"],
    rotations: Float[np.ndarray, "T 55 3 3"],
    translations: Float[np.ndarray, "T 55 3"],
) -> Projection:
    """Fit rotations to rigid local transforms (`body.kinematics`); see the module docstring.

    Args:
        joints: rest joints, canonical metres.
        rotations: of the local transforms.
        translations: of the local transforms, metres.
    """
    joints = np.asarray(joints, float)
    turned, placed = np.empty(rotations.shape), np.empty(translations.shape)
    for m, parent in enumerate(PARENTS):
        if m == 0:
            turned[:, 0], placed[:, 0] = rotations[:, 0], joints[0] + translations[:, 0]
        else:
            bone = joints[m] - joints[parent] + translations[:, m]
            turned[:, m] = turned[:, parent] @ rotations[:, m]
            placed[:, m] = placed[:, parent] + np.einsum("tab,tb->ta", turned[:, parent], bone)
    fitted, reached = turned.copy(), placed.copy()
    for m, children in _CHILDREN.items():
        if not children:
            continue
        bones = joints[children] - joints[m]
        aims = placed[:, children] - reached[:, m, None]
        fitted[:, m] = _nearest(np.einsum("tca,cb->tab", aims, bones) + RADIUS**2 * turned[:, m])
        reached[:, children] = reached[:, m, None] + np.einsum("tab,cb->tca", fitted[:, m], bones)
    local = fitted.copy()
    for m, parent in enumerate(PARENTS[1:], start=1):
        local[:, m] = np.swapaxes(fitted[:, parent], 1, 2) @ fitted[:, m]
    vectors = Rotation.from_matrix(local.reshape(-1, 3, 3)).as_rotvec()
    return Projection(
        rotations=vectors.reshape(translations.shape),
        translation=placed[:, 0],
        error=np.linalg.norm(reached - placed, axis=-1),
    )


def _nearest(matrices: Float[np.ndarray, "T 3 3"]) -> Float[np.ndarray, "T 3 3"]:
    """Return the rotations R that maximise trace(R^T M)."""
    u, _, vt = np.linalg.svd(matrices)
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    return u @ vt
