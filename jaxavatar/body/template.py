"""The parametric body: a mesh in the T-pose, its skeleton, and the ways it can change.

The packaged template is made from MakeHuman's CC0 data by `experiments/assets/build_template.py`.
The same struct holds a user's SMPL-X model (`smplx.load_smplx`). All changes of shape are linear
in the canonical frame; posing is linear blend skinning, after SMPL-X's pose blend shapes where
the model has them (Pavlakos et al., CVPR 2019).
"""

import functools
import importlib.resources

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxavatar.body.kinematics import local_transforms, skinning_transforms
from jaxavatar.body.skeleton import JOINTS, PARENTS
from jaxavatar.body.skinning import skin
from jaxavatar.structs import BodyPose


@flax.struct.dataclass
class BodyModel:
    """A parametric body. Lengths in metres, canonical frame, T-pose, neutral closed mouth.

    Shape letters beyond those of `structs`: V vertices, F triangles, U texture coordinates,
    P phenotype directions, B betas, I identity directions, D pose features, K landmarks.
    A family of directions that a model lacks has length zero.

    Attributes:
        vertices: the mean body.
        faces: triangles, counter-clockwise from outside.
        joints: rest joints of the mean body.
        weights: skinning weights, rows sum to one.
        shape_dirs: from the mean body to each extreme phenotype in `shape_names`.
        shape_joints: how the joints follow.
        betas: shape directions one standard deviation long, the strongest first.
        beta_joints: how the joints follow.
        identity_dirs: face-shape directions one standard deviation long, the strongest first.
        identity_joints: how the joints follow.
        expression_dirs: displacement at each full face unit.
        expression_joints: how the joints follow (only in SMPL-X).
        pose_dirs: displacement per entry of the joints' rotation matrices minus the identity
            (only in SMPL-X).
        hand_mean: mean relaxed hand, axis-angle of the 30 finger joints; poses here are relative
            to the flat hand, add it where a file's poses are relative to the mean.
        uv: texture coordinates in [0, 1], v upwards.
        faces_uv: the triangles as indices into `uv`.
        vertex_group: index into `VERTEX_GROUPS`.
        region: index into `REGIONS`: face is whatever a face unit moves.
        landmarks: vertices of `LANDMARKS` (empty where unknown: SMPL-X).
        parents: parent of each joint, -1 for the pelvis (static).
        joint_names: names of the joints (static).
        shape_names: names of the phenotype directions (static).
        expression_names: names of the face units: ARKit's 52 in alphabetical order in the
            template, "expression_0" ... in SMPL-X (static).
    """

    vertices: Float[Array, "V 3"]
    faces: Int[Array, "F 3"]
    joints: Float[Array, "J 3"]
    weights: Float[Array, "V J"]
    shape_dirs: Float[Array, "P V 3"]
    shape_joints: Float[Array, "P J 3"]
    betas: Float[Array, "B V 3"]
    beta_joints: Float[Array, "B J 3"]
    identity_dirs: Float[Array, "I V 3"]
    identity_joints: Float[Array, "I J 3"]
    expression_dirs: Float[Array, "E V 3"]
    expression_joints: Float[Array, "E J 3"]
    pose_dirs: Float[Array, "D V 3"]
    hand_mean: Float[Array, "30 3"]
    uv: Float[Array, "U 2"]
    faces_uv: Int[Array, "F 3"]
    vertex_group: Int[Array, " V"]
    region: Int[Array, " V"]
    landmarks: Int[Array, " K"]
    parents: tuple[int, ...] = flax.struct.field(pytree_node=False)
    joint_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    shape_names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    expression_names: tuple[str, ...] = flax.struct.field(pytree_node=False)


@functools.cache
def load_template() -> BodyModel:
    """Load the packaged body: 13 886 vertices, 55 joints, 52 face units, teeth, tongue, eyes."""
    path = importlib.resources.files("jaxavatar.body") / "data" / "template.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        stored = dict(data)
    unit = stored["unit"]  # displacements are stored as int16 multiples of it
    n_vertices, n_joints = len(stored["vertices"]), len(JOINTS)
    identity = np.zeros((len(stored["identity_dirs"]), n_vertices, 3), np.float32)
    identity[:, stored["identity_vertices"]] = stored["identity_dirs"] * unit
    weights = stored["weights"].astype(np.float64)
    # Eager even when first called while tracing: the cache must not keep a tracer.
    with jax.ensure_compile_time_eval():
        return BodyModel(
            vertices=jnp.asarray(stored["vertices"]),
            faces=jnp.asarray(stored["faces"], jnp.int32),
            joints=jnp.asarray(stored["joints"]),
            weights=jnp.asarray(weights / weights.sum(1, keepdims=True), jnp.float32),
            shape_dirs=jnp.asarray(stored["shape_dirs"] * unit),
            shape_joints=jnp.asarray(stored["shape_joints"]),
            betas=jnp.asarray(stored["betas"] * unit),
            beta_joints=jnp.asarray(stored["beta_joints"]),
            identity_dirs=jnp.asarray(identity),
            identity_joints=jnp.asarray(stored["identity_joints"]),
            expression_dirs=jnp.asarray(stored["expression_dirs"] * unit),
            expression_joints=jnp.zeros((len(stored["expression_dirs"]), n_joints, 3)),
            pose_dirs=jnp.zeros((0, n_vertices, 3)),
            hand_mean=jnp.zeros((30, 3)),
            uv=jnp.asarray(stored["uv"] / np.float32(65535)),
            faces_uv=jnp.asarray(stored["faces_uv"], jnp.int32),
            vertex_group=jnp.asarray(stored["vertex_group"], jnp.int32),
            region=jnp.asarray(stored["region"], jnp.int32),
            landmarks=jnp.asarray(stored["landmarks"], jnp.int32),
            parents=PARENTS,
            joint_names=JOINTS,
            shape_names=tuple(stored["shape_names"].tolist()),
            expression_names=tuple(stored["expression_names"].tolist()),
        )


def shaped(
    model: BodyModel,
    phenotype: Float[Array, " p"] | None = None,
    betas: Float[Array, " b"] | None = None,
    identity: Float[Array, " i"] | None = None,
) -> tuple[Float[Array, "V 3"], Float[Array, "J 3"]]:
    """Return the vertices and rest joints of one person in the T-pose.

    Each family takes any number of leading coefficients; the missing ones, and None, are zero.

    Args:
        model: the body.
        phenotype: how far towards each extreme of `model.shape_names`; 0 is the mean, 1 full.
        betas: body shape, standard deviations.
        identity: face shape, standard deviations.
    """
    vertices, joints = model.vertices, model.joints
    for coefficients, vertex_dirs, joint_dirs in (
        (phenotype, model.shape_dirs, model.shape_joints),
        (betas, model.betas, model.beta_joints),
        (identity, model.identity_dirs, model.identity_joints),
    ):
        if coefficients is not None:
            vertices = vertices + _combine(coefficients, vertex_dirs)
            joints = joints + _combine(coefficients, joint_dirs)
    return vertices, joints


def pose_vertices(
    model: BodyModel,
    vertices: Float[Array, "V 3"],
    joints: Float[Array, "J 3"],
    pose: BodyPose,
) -> Float[Array, "V 3"]:
    """Apply face units, then the pose, to one person's T-pose.

    Args:
        model: the body.
        vertices: of the person, from `shaped`.
        joints: of the person, from `shaped`.
        pose: one pose; `jax.vmap` over it for a clip. Its expression has one value for each of
            the model's face units (or leading ones).

    Returns:
        Vertices, world metres.
    """
    vertices = vertices + _combine(pose.expression, model.expression_dirs)
    joints = joints + _combine(pose.expression, model.expression_joints)
    local = local_transforms(pose.rotations, pose.translation)
    if len(model.pose_dirs):
        feature = local.rotation().as_matrix()[1:] - jnp.eye(3)
        vertices = vertices + _combine(feature.reshape(-1), model.pose_dirs)
    transforms = skinning_transforms(joints, local, model.parents)
    return skin(vertices, model.weights, transforms)[0]


def _combine(
    coefficients: Float[Array, " k"], directions: Float[Array, "K P 3"]
) -> Float[Array, "P 3"]:
    used = directions[: len(coefficients)]
    return jnp.einsum("k,kpa->pa", coefficients, used, precision=jax.lax.Precision.HIGHEST)
