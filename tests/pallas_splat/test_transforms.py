"""Rigid and skinned motion of Gaussians."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import render, workloads
from pallas_splat.transforms import move_rigid, move_skinned
from scipy.spatial.transform import Rotation

N, SIZE, PARTS = 30, 32, 4


@pytest.fixture(scope="module")
def poses():
    """Small rigid motions about the clusters' middle, float64."""
    rng = np.random.default_rng(3)
    poses = np.tile(np.eye(4), (PARTS, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.5, (PARTS, 3))).as_matrix()
    middle = np.array([0, 0, 4.0])
    poses[:, :3, 3] = middle - poses[:, :3, :3] @ middle + rng.normal(0, 0.1, (PARTS, 3))
    return poses


@pytest.fixture(scope="module")
def weights():
    return np.random.default_rng(4).dirichlet(np.full(PARTS, 0.5), N)


@pytest.fixture
def scene():
    with jax.enable_x64(True):
        yield workloads.cast(workloads.clustered(N, SIZE), jnp.float64)


def without_map(gaussians):
    return dataclasses.replace(gaussians, linear=None)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("rows", [4, 3])
def test_skinning_is_the_blend_of_homogeneous_transforms(scene, poses, weights, mapped, rows):
    gaussians = scene[0] if mapped else without_map(scene[0])
    moved = move_skinned(gaussians, jnp.asarray(poses[:, :rows]), jnp.asarray(weights))
    blend = np.tensordot(weights, poses, 1)
    homogeneous = np.concatenate([gaussians.means, np.ones((N, 1))], axis=1)
    expected = np.matmul(blend, homogeneous[:, :, None])[:, :3, 0]
    np.testing.assert_allclose(moved.means, expected, rtol=1e-12, atol=1e-12)
    assert moved.linear is not None
    linear = blend[:, :3, :3] @ (np.array(gaussians.linear) if mapped else np.eye(3))
    np.testing.assert_allclose(moved.linear, linear, rtol=1e-12, atol=1e-12)


def test_rigid_is_skinning_by_one_joint(scene, poses):
    ids = np.arange(N) % PARTS
    moved = move_rigid(scene[0], jnp.asarray(poses), jnp.asarray(ids))
    expected = move_skinned(scene[0], jnp.asarray(poses), jnp.eye(PARTS)[ids])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), moved, expected)


def test_many_gaussians_under_jit_move_like_few():
    """The size at which broadcast products of matrices were miscompiled, in float32."""
    n = 40_000
    rng = np.random.default_rng(5)
    gaussians, _ = workloads.clustered(n, SIZE)
    assert gaussians.linear is not None
    joints = rng.standard_normal((PARTS, 4, 4))
    weights = rng.dirichlet(np.ones(PARTS), n)
    moved = jax.jit(move_skinned)(*workloads.cast((gaussians, joints, weights), jnp.float32))
    blend = np.tensordot(weights, joints, 1)[:, :3]
    means = np.matmul(blend[:, :, :3], gaussians.means[:, :, None])[..., 0] + blend[:, :, 3]
    np.testing.assert_allclose(moved.means, means, rtol=1e-5, atol=2e-5)
    linear = blend[:, :, :3] @ gaussians.linear
    np.testing.assert_allclose(moved.linear, linear, rtol=1e-5, atol=1e-5)


def test_shapes_are_not_copied(scene, poses, weights):
    gaussians = scene[0]
    rigid = move_rigid(gaussians, jnp.asarray(poses), jnp.zeros(N, jnp.int32))
    skinned = move_skinned(gaussians, jnp.asarray(poses), jnp.asarray(weights))
    for moved in (rigid, skinned):
        for name in ("quats", "scales", "opacities", "colors"):
            assert getattr(moved, name) is getattr(gaussians, name)


def test_moved_gaussians_look_like_turned_ones(scene, poses):
    """The same view from quaternions turned by SciPy, without any linear map."""
    gaussians, camera = without_map(scene[0]), scene[1]
    ids = np.arange(N) % PARTS
    turns = Rotation.from_matrix(poses[ids, :3, :3])
    old = Rotation.from_quat(np.array(gaussians.quats)[:, [1, 2, 3, 0]])
    turned = dataclasses.replace(
        gaussians,
        means=jnp.asarray(turns.apply(np.array(gaussians.means)) + poses[ids, :3, 3]),
        quats=jnp.asarray((turns * old).as_quat()[:, [3, 0, 1, 2]]),
    )
    moved = move_rigid(gaussians, jnp.asarray(poses), jnp.asarray(ids))
    images = [render(g, camera, backend="reference").image for g in (moved, turned, gaussians)]
    np.testing.assert_allclose(images[0], images[1], atol=1e-10)
    assert np.abs(images[0] - images[2]).max() > 0.1, "the motion should be visible"


def test_a_moved_scene_looks_like_a_moved_camera(scene, poses):
    """One pose for all is the same as the inverse motion of the camera."""
    gaussians, camera = scene
    pose = jnp.asarray(poses[:1])
    moved = move_rigid(gaussians, pose, jnp.zeros(N, jnp.int32))
    other = dataclasses.replace(camera, viewmat=camera.viewmat @ pose[0])
    expected = render(gaussians, other, backend="reference").image
    np.testing.assert_allclose(
        render(moved, camera, backend="reference").image, expected, atol=1e-9
    )


def test_gradients_are_those_of_finite_differences(scene, poses, weights):
    gaussians, _ = scene
    poses, weights = jnp.asarray(poses), jnp.asarray(weights)
    rng = np.random.default_rng(6)
    cotangents = [jnp.asarray(rng.standard_normal(shape)) for shape in ((N, 3), (N, 3, 3))]
    ids = jnp.arange(N) % PARTS

    def measure(moved):
        parts = (jnp.sin(moved.means) * cotangents[0], jnp.sin(moved.linear) * cotangents[1])
        return sum(jnp.sum(part) for part in parts)

    def skinned(means, linear, joints, weights):
        moved = dataclasses.replace(gaussians, means=means, linear=linear)
        return measure(move_skinned(moved, joints, weights))

    def rigid(means, linear, poses):
        moved = dataclasses.replace(gaussians, means=means, linear=linear)
        return measure(move_rigid(moved, poses, ids))

    arrays = (gaussians.means, gaussians.linear, poses, weights)
    for function, arguments in ((skinned, arrays), (rigid, arrays[:3])):
        gradients = jax.grad(function, argnums=range(len(arguments)))(*arguments)
        compiled = jax.jit(function)
        for position, gradient in enumerate(gradients):
            direction = rng.standard_normal(gradient.shape)
            step = [np.zeros(a.shape) for a in arguments]
            step[position] = 1e-5 * direction
            above = compiled(*(a + s for a, s in zip(arguments, step, strict=True)))
            below = compiled(*(a - s for a, s in zip(arguments, step, strict=True)))
            expected = (above - below) / 2e-5
            assert jnp.sum(gradient * direction) == pytest.approx(float(expected), rel=1e-6)


def test_an_id_without_a_pose_gives_nan(scene, poses):
    moved = move_rigid(scene[0], jnp.asarray(poses), jnp.arange(N) % (PARTS + 1))
    lost = np.arange(N) % (PARTS + 1) == PARTS
    np.testing.assert_array_equal(np.isnan(moved.means).all(axis=1), lost)


def test_rejects_wrong_shapes(scene, poses, weights):
    gaussians, poses = scene[0], jnp.asarray(poses)
    with pytest.raises(ValueError, match=r"weights must have shape \(30, 4\), got \(29, 4\)"):
        move_skinned(gaussians, poses, jnp.asarray(weights[1:]))
    with pytest.raises(ValueError, match=r"joints must have shape .* got \(4, 4, 3\)"):
        move_skinned(gaussians, poses[:, :, :3], jnp.asarray(weights))
    with pytest.raises(ValueError, match=r"ids must be integers of shape \(30,\), got float64"):
        move_rigid(gaussians, poses, jnp.zeros(N))
