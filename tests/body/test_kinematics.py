"""Forward kinematics against a float64 numpy loop over 4x4 matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxavatar.body import JOINTS, PARENTS, local_transforms, posed_joints, skinning_transforms
from jaxavatar.body.kinematics import tree_levels

J = len(PARENTS)


def example(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(J, 3)), scale * rng.normal(size=(J, 3)), rng.normal(size=3)


def oracle(joints, rotations, translation):
    """Return A [J, 4, 4] and the posed joints by walking the tree in float64."""
    frames = np.zeros((J, 4, 4))
    for m, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = Rotation.from_rotvec(rotations[m]).as_matrix()
        bone = np.eye(4)
        bone[:3, 3] = joints[m] - (joints[parent] if parent >= 0 else 0)
        if parent < 0:
            local[:3, 3] = translation
        frames[m] = (frames[parent] if parent >= 0 else np.eye(4)) @ bone @ local
    to_joint = np.tile(np.eye(4), (J, 1, 1))
    to_joint[:, :3, 3] = -joints
    return frames @ to_joint, frames[:, :3, 3]


@jax.jit
def transforms(joints, rotations, translation):
    local = local_transforms(rotations, translation)
    return skinning_transforms(joints, local, PARENTS), posed_joints(joints, local, PARENTS)


def test_matches_the_oracle():
    joints, rotations, translation = example()
    expected, expected_joints = oracle(joints, rotations, translation)
    actual, actual_joints = transforms(*map(jnp.float32, (joints, rotations, translation)))
    np.testing.assert_allclose(actual, expected[:, :3], atol=2e-5)
    np.testing.assert_allclose(actual_joints, expected_joints, atol=2e-5)


def test_t_pose_is_the_identity():
    joints = jnp.asarray(example()[0], jnp.float32)
    actual, moved = transforms(joints, jnp.zeros((J, 3)), jnp.zeros(3))
    np.testing.assert_allclose(actual, np.tile(np.eye(3, 4), (J, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(moved, joints, atol=1e-6)


def test_pelvis_turns_canonical_up_to_camera_up():
    joints = jnp.asarray(example()[0], jnp.float32)
    rotations = jnp.zeros((J, 3)).at[0].set(jnp.array([jnp.pi, 0, 0]))
    actual, _ = transforms(joints, rotations, jnp.zeros(3))
    np.testing.assert_allclose(
        actual[:, :, :3], np.tile(np.diag([1, -1, -1]), (J, 1, 1)), atol=1e-6
    )


def test_moving_a_joint_moves_only_its_descendants():
    joints, _, _ = example()
    rotations = np.zeros((J, 3))
    rotations[JOINTS.index("left_elbow")] = [0, 1, 0]
    actual, _ = transforms(jnp.float32(joints), jnp.float32(rotations), jnp.zeros(3))
    moved = np.abs(np.asarray(actual) - np.eye(3, 4)).max((1, 2)) > 1e-4
    names = {name for name, m in zip(JOINTS, moved, strict=True) if m}
    expected = {"left_elbow", "left_wrist"}
    expected |= {
        f"left_{f}{k}" for f in ("index", "middle", "pinky", "ring", "thumb") for k in (1, 2, 3)
    }
    assert names == expected


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0])
def test_gradients_match_finite_differences(scale):
    """In float64, at zero rotation too, where the exponential map needs its series."""
    with jax.enable_x64(True):
        joints, rotations, translation = map(jnp.asarray, example(1, scale))
        rng = np.random.default_rng(2)
        weight = jnp.asarray(rng.normal(size=(J, 3, 4)))

        def loss(joints, rotations, translation):
            local = local_transforms(rotations, translation)
            return jnp.sum(weight * skinning_transforms(joints, local, PARENTS))

        loss = jax.jit(loss)
        arguments = (joints, rotations, translation)
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arguments)
        for k, gradient in enumerate(gradients):
            direction = jnp.asarray(rng.normal(size=gradient.shape))
            step = 1e-5 * direction
            ahead, behind = (
                loss(*arguments[:k], arguments[k] + sign * step, *arguments[k + 1 :])
                for sign in (1, -1)
            )
            np.testing.assert_allclose(
                jnp.vdot(gradient, direction), (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-7
            )


def test_vmap_over_time_agrees_with_single_frames():
    frames = [example(seed) for seed in range(3)]
    joints = jnp.float32(frames[0][0])
    rotations, translation = (jnp.float32(np.stack([f[i] for f in frames])) for i in (1, 2))
    batched, _ = jax.vmap(transforms, in_axes=(None, 0, 0))(joints, rotations, translation)
    for t in range(3):
        np.testing.assert_allclose(
            batched[t], transforms(joints, rotations[t], translation[t])[0], atol=1e-5
        )


def test_levels_cover_every_joint_once_and_follow_their_parents():
    levels = tree_levels(PARENTS)
    assert sorted(m for level in levels for m in level) == list(range(J))
    depth = {m: d for d, level in enumerate(levels) for m in level}
    assert all(depth[m] == depth[p] + 1 for m, p in enumerate(PARENTS) if p >= 0)


@pytest.mark.parametrize("parents", [(0, 0), (-1, -1), (-1, 2, 0)])
def test_levels_refuse_what_is_no_tree(parents):
    with pytest.raises(ValueError, match="precede"):
        tree_levels(parents)
