"""Forward kinematics: local joint transforms to the transforms that skin a body.

The T-pose is the identity. Joint m's local transform T_m in SE(3) acts about the joint, in the
frame of its parent:

    G_0 = Trans(j_0) T_0,    G_m = G_parent(m) Trans(j_m - j_parent(m)) T_m,

where j_m are the rest joints of the canonical frame. G_m carries joint-centred coordinates to the
world, and A_m = G_m Trans(-j_m) carries canonical points to the world; A_m is what linear blend
skinning blends. With purely rotational T_m this is the kinematic chain of SMPL-X. The pelvis's
local transform T_0 also holds the change from the canonical frame to the world: a person upright
in front of the camera has a pelvis rotation of pi about x.

The chain is evaluated one depth of the tree at a time: 11 steps for the 55 joints of SMPL-X.
Matrix products ask for full float32 precision, since the reduced precision that accelerators use
by default would move points by millimetres.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Array, Float


def local_transforms(rotations: Float[Array, "J 3"], translation: Float[Array, " 3"]) -> jaxlie.SE3:
    """Turn a pose into local joint transforms.

    Args:
        rotations: local joint rotations relative to the T-pose, axis-angle, radians.
        translation: displacement of the pelvis from its rest position, world metres.

    Returns:
        Local transforms with batch shape `(J,)`. Only the pelvis (joint 0) translates.
    """
    translations = jnp.zeros_like(rotations).at[0].set(translation)
    return jaxlie.SE3.from_rotation_and_translation(jaxlie.SO3.exp(rotations), translations)


def skinning_transforms(
    joints: Float[Array, "J 3"], local: jaxlie.SE3, parents: Sequence[int]
) -> Float[Array, "J 3 4"]:
    """Carry local joint transforms down the tree; return what skinning blends.

    Args:
        joints: rest joints, canonical metres.
        local: local transforms with batch shape `(J,)`; translations in metres.
        parents: parent of each joint, -1 for the root (static; a parent precedes its children).

    Returns:
        `A_m = G_m Trans(-j_m)`, canonical to world, as the upper 3x4 of a rigid transform.
    """
    frames = _joint_frames(joints, local, parents)
    rotation, position = frames[:, :, :3], frames[:, :, 3]
    moved = jnp.einsum("jab,jb->ja", rotation, joints, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([rotation, (position - moved)[:, :, None]], axis=-1)


def posed_joints(
    joints: Float[Array, "J 3"], local: jaxlie.SE3, parents: Sequence[int]
) -> Float[Array, "J 3"]:
    """Return where the joints stand in the world; arguments as for `skinning_transforms`."""
    return _joint_frames(joints, local, parents)[:, :, 3]


def tree_levels(parents: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Group joints by their depth in the tree, the root first.

    Args:
        parents: parent of each joint, -1 for the root; a parent precedes its children.

    Raises:
        ValueError: joint 0 is not the only root, or a parent does not precede its child.
    """
    parents = tuple(int(p) for p in parents)
    if parents[0] != -1 or any(not 0 <= p < m for m, p in enumerate(parents[1:], start=1)):
        raise ValueError(f"parents must start with -1 and precede their children, got {parents}")
    return _levels(parents)


@functools.cache
def _levels(parents: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    depth = [0] * len(parents)
    for m, parent in enumerate(parents[1:], start=1):
        depth[m] = depth[parent] + 1
    return tuple(
        tuple(m for m, d in enumerate(depth) if d == level) for level in range(max(depth) + 1)
    )


def _joint_frames(
    joints: Float[Array, "J 3"], local: jaxlie.SE3, parents: Sequence[int]
) -> Float[Array, "J 3 4"]:
    """Compute G_m for every joint."""
    levels = tree_levels(parents)
    parent = np.maximum(np.asarray(parents), 0)
    bones = joints.at[1:].add(-joints[parent[1:]])
    # Trans(bone) T_m only adds the bone to T_m's translation.
    steps = jnp.concatenate(
        [local.rotation().as_matrix(), (local.translation() + bones)[:, :, None]], axis=-1
    )

    # Rigid 3x4 matrices, not homogeneous 4x4 ones: less work, and jaxlib 0.10.2 miscompiles the
    # chain of gathered 4x4 products on the CPU.
    frames = [steps[np.asarray(levels[0])]]
    for above, level in itertools.pairwise(levels):
        row = np.asarray([above.index(parent[m]) for m in level])
        up = frames[-1][row]
        moved = jnp.einsum(
            "jab,jbc->jac",
            up[:, :, :3],
            steps[np.asarray(level)],
            precision=jax.lax.Precision.HIGHEST,
        )
        frames.append(moved.at[:, :, 3].add(up[:, :, 3]))
    back = np.argsort(np.concatenate([np.asarray(level) for level in levels]))
    return jnp.concatenate(frames)[back]
