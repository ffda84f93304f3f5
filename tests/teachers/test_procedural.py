"""The teacher's keypoints, landmarks and frames are those of the posed avatar."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxavatar.body import JOINTS, PARENTS
from jaxavatar.structs import BodyPose
from jaxavatar.teachers import procedural

FRAMES = 3


@pytest.fixture(scope="module")
def avatar(toys):
    return toys.avatar()


@pytest.fixture(scope="module")
def motion():
    """Still in the first frame, then turning, shifting and grimacing."""
    rng = np.random.default_rng(2)
    sizes, amounts = ((55, 3), (3,), (52,)), (0.1, 0.02, 0.3)
    fade = np.linspace(0, 1, FRAMES)
    draws = [a * rng.random((FRAMES, *s)) for s, a in zip(sizes, amounts, strict=True)]
    return BodyPose(
        *(jnp.asarray(d * fade.reshape(-1, *[1] * (d.ndim - 1)), jnp.float32) for d in draws)
    )


def posed(avatar, motion, t):
    """Linear blend skinning in float64: every joint's chain of rotations, one by one."""
    rest, delta = np.asarray(avatar.rest.rotations, float), np.asarray(motion.rotations[t], float)
    joints = np.asarray(avatar.joints, float)
    moved = np.zeros((len(JOINTS), 4, 4))
    for j, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = (Rotation.from_rotvec(rest[j]) * Rotation.from_rotvec(delta[j])).as_matrix()
        local[:3, 3] = joints[j] - (joints[parent] if j else 0)
        if j == 0:
            local[:3, 3] += np.asarray(avatar.rest.translation) + np.asarray(motion.translation[t])
        moved[j] = moved[parent] @ local if j else local
    moved[:, :3, 3] -= np.einsum("jab,jb->ja", moved[:, :3, :3], joints)
    points = np.asarray(avatar.means, float)
    points[: avatar.n_face] += np.tensordot(
        np.asarray(avatar.face_units, float), np.asarray(motion.expression[t], float), ((1,), (0,))
    )
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], 1)
    blended = np.einsum("nj,jab->nab", np.asarray(avatar.weights, float), moved)
    return np.einsum("nab,nb->na", blended, homogeneous)[:, :3]


def test_keypoints_are_projections_of_posed_gaussians(avatar, motion, toys):
    camera = toys.camera()
    index = jnp.array([3, 59, 60, 150, 199])
    points = jax.jit(procedural.keypoints)(avatar, motion, camera, index)
    for t in range(FRAMES):
        world = posed(avatar, motion, t)[np.asarray(index)]
        expected = world[:, :2] / world[:, 2:] * 60.0 + 16.0
        np.testing.assert_allclose(points[t], expected, atol=2e-3)
    assert np.abs(points[-1] - points[0]).max() > 1


def test_landmarks_are_in_the_world(avatar, motion):
    points = jax.jit(procedural.landmarks)(avatar, motion)
    expected = [posed(avatar, motion, t)[np.asarray(avatar.landmarks)] for t in range(FRAMES)]
    np.testing.assert_allclose(points, expected, atol=1e-5)


def test_frames_show_the_avatar_over_the_background(avatar, motion, toys):
    background = jnp.array([0.1, 0.6, 0.3])
    frames = jax.jit(procedural.render_clip)(avatar, motion, toys.camera(), background)
    assert frames.images.shape == (FRAMES, 32, 32, 3)
    empty = np.asarray(frames.alpha[0]) < 1e-6
    assert 0.02 < empty.mean() < 0.98
    assert np.abs(np.asarray(frames.images[0])[empty] - background).max() < 1e-5
    # What is seen is where the Gaussians are: the brightest alpha surrounds their centres.
    world = posed(avatar, motion, 0)
    x, y = (world[:, :2] / world[:, 2:] * 60.0 + 16.0).astype(int).T
    inside = (x >= 0) & (x < 32) & (y >= 0) & (y < 32)
    assert np.asarray(frames.alpha[0])[y[inside], x[inside]].min() > 0.3
    assert np.abs(frames.images[-1] - frames.images[0]).max() > 0.05
