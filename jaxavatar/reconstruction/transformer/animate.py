"""LHM's animation: canonical Gaussians of the transformer to a pose.

The canonical pose is undone first (`canonical.to_rest`), then the body's shape is added and the
pose applied; both skin with each point's own weights. Sizes, opacities and colours stay. A blend
of rotations is no rotation: as in LHM a quaternion is read off it, and that it shrinks is ignored.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxavatar.body.kinematics import local_transforms, skinning_transforms
from jaxavatar.body.skinning import skin
from jaxavatar.reconstruction.transformer.canonical import to_rest


@flax.struct.dataclass
class PointBody:
    """What a body model says of the query points, and its joints.

    Attributes:
        weights: skinning weights, rows of sum 1.
        shape_dirs: displacement by each shape coefficient, metres.
        expression_dirs: displacement by each expression coefficient, metres.
        fixed: points whose Gaussians do not turn (LHM's `is_constrain_body`).
        joints: rest joints of the neutral shape, metres.
        joint_dirs: displacement of the joints by each shape coefficient, metres.
        parents: of the joints, -1 for the root (static).
    """

    weights: Float[Array, "N J"]
    shape_dirs: Float[Array, "N 3 b"]
    expression_dirs: Float[Array, "N 3 e"]
    fixed: Bool[Array, " N"]
    joints: Float[Array, "J 3"]
    joint_dirs: Float[Array, "J 3 b"]
    parents: tuple[int, ...] = flax.struct.field(pytree_node=False)


def pose_gaussians(
    means: Float[Array, "N 3"],
    quats: Float[Array, "N 4"],
    body: PointBody,
    rotations: Float[Array, "J 3"],
    translation: Float[Array, " 3"],
    betas: Float[Array, " b"],
    expression: Float[Array, " e"],
) -> tuple[Float[Array, "N 3"], Float[Array, "N 4"]]:
    """Move Gaussians from the canonical pose into a pose; `jax.vmap` over poses for a clip.

    Args:
        means: centres in the canonical pose, metres.
        quats: w, x, y, z, of length 1.
        body: of the points.
        rotations: local joint rotations, axis-angle, radians, flat hands.
        translation: added at the end, metres.
        betas: shape coefficients.
        expression: expression coefficients.

    Returns:
        Centres, metres, and unit quaternions with w >= 0.
    """
    means = means + _combine(body.expression_dirs, expression)
    means, back = skin(means, body.weights, to_rest(body.joints, body.parents))
    means = means + _combine(body.shape_dirs, betas)
    joints = body.joints + _combine(body.joint_dirs, betas)
    local = local_transforms(rotations, jnp.zeros_like(translation))
    means, forth = skin(means, body.weights, skinning_transforms(joints, local, body.parents))
    turned = jnp.einsum("nab,nbc->nac", forth, back, precision=jax.lax.Precision.HIGHEST)
    still = jnp.asarray([1.0, 0.0, 0.0, 0.0], quats.dtype)
    turn = jnp.where(body.fixed[:, None], still, blend_quaternion(turned))
    return means + translation, _positive(multiply(turn, quats))


def full_pose(
    root: Float[Array, "*T 3"],
    body: Float[Array, "*T 21 3"],
    jaw: Float[Array, "*T 3"],
    left_eye: Float[Array, "*T 3"],
    right_eye: Float[Array, "*T 3"],
    left_hand: Float[Array, "*T 15 3"],
    right_hand: Float[Array, "*T 15 3"],
) -> Float[Array, "*T 55 3"]:
    """Join the parts of LHM's motion files in SMPL-X order."""
    single = [x[..., None, :] for x in (root, jaw, left_eye, right_eye)]
    return jnp.concatenate([single[0], body, *single[1:], left_hand, right_hand], axis=-2)


def blend_quaternion(matrix: Float[Array, "N 3 3"]) -> Float[Array, "N 4"]:
    """Return the unit quaternion of a blend of rotations.

    Four ways to read a quaternion off a rotation matrix divide by its four components; that of
    the largest is taken. For matrices that are no rotations the ways differ; these are those of
    PyTorch3D's `matrix_to_quaternion`, which LHM calls.
    """
    m = [[matrix[:, i, j] for j in range(3)] for i in range(3)]
    xx, yy, zz = m[0][0], m[1][1], m[2][2]
    squares = jnp.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], 1)
    x, y, z = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[1][0] + m[0][1], m[0][2] + m[2][0], m[1][2] + m[2][1]
    rows = [
        [squares[:, 0], x, y, z],
        [x, squares[:, 1], xy, xz],
        [y, xy, squares[:, 2], yz],
        [z, xz, yz, squares[:, 3]],
    ]
    ways = jnp.stack([jnp.stack(row, 1) for row in rows], 1)
    # All rows are twice the component times the quaternion, of which only the direction is kept.
    largest = jnp.argmax(squares, axis=1)
    found = jnp.take_along_axis(ways, largest[:, None, None], axis=1)[:, 0]
    return found / jnp.linalg.norm(found, axis=-1, keepdims=True)


def multiply(a: Float[Array, "*N 4"], b: Float[Array, "*N 4"]) -> Float[Array, "*N 4"]:
    """Return the product of quaternions, w first: b turns first, then a."""
    aw, ax, ay, az = (a[..., k] for k in range(4))
    bw, bx, by, bz = (b[..., k] for k in range(4))
    return jnp.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def _positive(quats: Float[Array, "N 4"]) -> Float[Array, "N 4"]:
    return jnp.where(quats[:, :1] < 0, -quats, quats)


def _combine(directions: Float[Array, "N 3 k"], values: Float[Array, " k"]) -> Float[Array, "N 3"]:
    return jnp.einsum("nak,k->na", directions, values, precision=jax.lax.Precision.HIGHEST)
