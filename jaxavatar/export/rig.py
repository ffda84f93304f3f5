"""A mesh that stands for an avatar in programs without Gaussians: skeleton, skin, face units.

The template's triangles take the person's shape and colours from the Gaussians around them. It is
a proxy: detail finer than its 14 000 vertices, and whatever has no skin (hair that stands off,
clothes) is lost or lies on the skin.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls
from scipy.spatial import KDTree

from jaxavatar import body
from jaxavatar.body.mesh import vertex_normals
from jaxavatar.structs import Avatar

INFLUENCES = 4
"""Joints per vertex: what every program reads."""

_NEIGHBOURS = 12  # Gaussians that a vertex takes its place and colour from
_NEAR = 0.004  # metres; distance at which a neighbour counts half
_RIDGE = 1e-3  # of the mean size of a face unit, so that units are not played against each other


@dataclasses.dataclass(frozen=True)
class Rig:
    """A skinned mesh, canonical metres, arrays of NumPy.

    Attributes:
        vertices: of the person in the T-pose with a neutral face.
        normals: unit.
        colors: sRGB, in [0, 1].
        faces: triangles, counter-clockwise from outside.
        influences: joints that move each vertex.
        weights: how much; rows sum to one.
        joints: rest joints.
        units: displacement of each vertex at each full face unit.
    """

    vertices: Float[np.ndarray, "V 3"]
    normals: Float[np.ndarray, "V 3"]
    colors: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    influences: Int[np.ndarray, "V 4"]
    weights: Float[np.ndarray, "V 4"]
    joints: Float[np.ndarray, "J 3"]
    units: Float[np.ndarray, "E V 3"]


@dataclasses.dataclass(frozen=True)
class Track:
    """What a rig does, frame by frame.

    Attributes:
        rotations: of each joint in its parent's frame, wxyz; the pelvis's in the camera's.
        translations: likewise, metres.
        units: weight of each face unit, in [0, 1].
    """

    rotations: Float[np.ndarray, "T J 4"]
    translations: Float[np.ndarray, "T J 3"]
    units: Float[np.ndarray, "T E"]


def make_rig(avatar: Avatar) -> Rig:
    """Give the template's mesh the shape and the colours of an avatar."""
    template = body.load_template()
    vertices = np.asarray(template.vertices, np.float64)
    places = np.asarray(avatar.template_points, np.float64)
    distance, near = KDTree(places).query(vertices, k=_NEIGHBOURS)
    share = 1 / (distance**2 + _NEAR**2)
    shift = _mean(share, (np.asarray(avatar.means, np.float64) - places)[near])
    seen = share * np.asarray(avatar.opacities, np.float64)[near]
    shaped = vertices + shift
    faces = np.asarray(template.faces)
    weights = np.asarray(template.weights, np.float64)
    strongest = np.argsort(-weights, axis=1)[:, :INFLUENCES]
    kept = np.take_along_axis(weights, strongest, axis=1)
    normals = vertex_normals(jnp.asarray(shaped, jnp.float32), template.faces)
    return Rig(
        vertices=shaped,
        normals=_unit(np.asarray(normals, np.float64)),
        colors=_mean(seen, np.asarray(avatar.colors, np.float64)[near]),
        faces=faces,
        influences=np.where(kept > 0, strongest, 0),
        weights=kept / kept.sum(1, keepdims=True),
        joints=np.asarray(avatar.joints, np.float64),
        units=np.asarray(template.expression_dirs, np.float64),
    )


def joint_track(
    avatar: Avatar, transforms: Float[np.ndarray, "T J 7"], units: Float[np.ndarray, "T E"]
) -> Track:
    """Compose the rest pose with the motion of each joint.

    Args:
        avatar: whom the transforms move.
        transforms: T_m relative to the rest pose, as in `Motion.transforms`.
        units: weights of face units.
    """
    rest = body.local_transforms(avatar.rest.rotations, avatar.rest.translation)
    local = jax.jit(lambda transforms: (rest @ jaxlie.SE3(transforms)).wxyz_xyz)(transforms)
    local = np.asarray(local, np.float64)
    joints = np.asarray(avatar.joints, np.float64)
    bones = joints - joints[np.maximum(body.PARENTS, 0)]
    bones[0] = joints[0]
    return Track(local[..., :4], local[..., 4:] + bones, units)


def fit_units(
    directions: Float[np.ndarray, "K E 3"], shifts: Float[np.ndarray, "T K 3"]
) -> Float[np.ndarray, "T E"]:
    """Find the face units that move some Gaussians as the driver did.

    Per frame, least squares over weights in [0, 1], of which small ones are preferred.

    Args:
        directions: displacement of each Gaussian at each full face unit.
        shifts: what the driver's head moved them by.
    """
    n_units = directions.shape[1]
    matrix = directions.transpose(0, 2, 1).reshape(-1, n_units).astype(np.float64)
    gram = matrix.T @ matrix
    gram += _RIDGE * np.trace(gram) / n_units * np.eye(n_units)
    factor = np.linalg.cholesky(gram)
    sought = np.linalg.solve(factor, matrix.T @ shifts.reshape(len(shifts), -1).T)
    return np.stack([np.minimum(nnls(factor.T, column)[0], 1) for column in sought.T])


def _mean(share: Float[np.ndarray, "V k"], values: Float[np.ndarray, "V k 3"]):
    total = np.maximum(share.sum(1, keepdims=True), 1e-12)
    return np.einsum("vk,vka->va", share / total, values)


def _unit(vectors: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
    """Scale to length one; what has no length points up."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > 0, vectors / np.maximum(lengths, 1e-12), [0.0, 1.0, 0.0])
