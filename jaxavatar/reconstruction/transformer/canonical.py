"""The pose in which the transformer places its points: the T-pose with the legs apart.

The feet of the template nearly touch; 20 degrees at each hip keep the legs' Gaussians apart.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.body import JOINTS
from jaxavatar.body.kinematics import local_transforms, posed_joints, skinning_transforms

_HIP = np.pi / 9


def canonical_rotations() -> Float[Array, "J 3"]:
    """Return the local joint rotations of the canonical pose, axis-angle."""
    rotations = np.zeros((len(JOINTS), 3))
    rotations[JOINTS.index("left_hip"), 2] = _HIP
    rotations[JOINTS.index("right_hip"), 2] = -_HIP
    return jnp.asarray(rotations, jnp.float32)


def query_points(
    points: Float[Array, "N 3"],
    weights: Float[Array, "N J"],
    joints: Float[Array, "J 3"],
    parents: Sequence[int],
) -> Float[Array, "N 3"]:
    """Carry points of the template, of neutral shape, into the canonical pose.

    Args:
        points: on the template in the T-pose, metres.
        weights: skinning weights.
        joints: rest joints, metres.
        parents: of the joints, -1 for the root.
    """
    return _turned(points, weights, joints, canonical_rotations(), tuple(parents))


@functools.partial(jax.jit, static_argnames="parents")
def _turned(
    points: Float[Array, "N 3"],
    weights: Float[Array, "N J"],
    joints: Float[Array, "J 3"],
    rotations: Float[Array, "J 3"],
    parents: tuple[int, ...],
) -> Float[Array, "N 3"]:
    transforms = skinning_transforms(joints, _local(rotations, joints), parents)
    blended = jnp.einsum("nj,jab->nab", weights, transforms, precision=jax.lax.Precision.HIGHEST)
    turned = jnp.einsum(
        "nab,nb->na", blended[:, :, :3], points, precision=jax.lax.Precision.HIGHEST
    )
    return turned + blended[:, :, 3]


def to_rest(joints: Float[Array, "J 3"], parents: Sequence[int]) -> Float[Array, "J 3 4"]:
    """Return the rigid transforms that skin the canonical pose back to the T-pose.

    Every joint turns back about where it stands in the canonical pose. Blended, they undo
    `query_points` only where one joint holds a point alone, as in the released model.

    Args:
        joints: rest joints, metres.
        parents: of the joints, -1 for the root.
    """
    rotations = canonical_rotations()
    placed = posed_joints(joints, _local(rotations, joints), parents)
    return skinning_transforms(placed, _local(-rotations, joints), parents)


def _local(rotations: Float[Array, "J 3"], joints: Float[Array, "J 3"]) -> jaxlie.SE3:
    """Return local transforms of the joints' type."""
    return local_transforms(rotations.astype(joints.dtype), jnp.zeros(3, joints.dtype))
