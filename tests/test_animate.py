"""The forward function: rest pose, explicit poses, eq. 6-7, cameras."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation

from jaxavatar import animate
from jaxavatar.body import PARENTS
from jaxavatar.deformer import Driver, DriverConfig, Offsets, initial_state, whole
from jaxavatar.structs import BodyPose

CONFIG = DriverConfig(width=16, heads=2, head_width=8, face_code=4, octaves=3)
FRAMES = 11


@pytest.fixture(scope="module")
def scene(toys):
    avatar, drive, driver = toys.avatar(), toys.drive(frames=FRAMES), Driver(CONFIG)
    params = jax.jit(driver.init)(
        jax.random.key(0), avatar, whole(drive, CONFIG.halo), initial_state(CONFIG)
    )
    params = jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
    )
    posed, _ = jax.jit(animate.deform, static_argnums=0)(driver, params, avatar, drive)
    return driver, params, avatar, drive, posed


def skinned(avatar, points, rotations, translation, shifts=None):
    """Linear blend skinning by 4x4 matrices in float64, with translation added in the world.

    `shifts` are further translations of the joints, in the frames of their parents.
    """
    joints, weights = np.asarray(avatar.joints, float), np.asarray(avatar.weights, float)
    chain = []
    for m, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = rotations[m]
        local[:3, 3] = joints[m] - (joints[parent] if m else 0)
        local[:3, 3] += 0 if shifts is None else shifts[m]
        chain.append(chain[parent] @ local if m else local)
    transforms = np.stack(chain)
    transforms[:, :3, 3] -= np.einsum("jab,jb->ja", transforms[:, :3, :3], joints) - translation
    blended = np.einsum("nj,jab->nab", weights, transforms)
    moved = np.einsum("nab,nb->na", blended[:, :3, :3], np.asarray(points, float))
    return moved + blended[:, :3, 3], blended[:, :3, :3]


def test_zero_deltas_give_the_rest_pose_and_others_move_it(toys):
    avatar = toys.avatar()
    rng = np.random.default_rng(0)
    delta = np.stack([np.zeros((55, 3)), 0.3 * rng.normal(size=(55, 3))])
    shift = np.array([[0.0, 0, 0], [0.1, -0.2, 0.3]])
    units = np.stack([np.zeros(52), rng.uniform(0, 1, 52)])
    deltas = BodyPose(*(jnp.asarray(x, jnp.float32) for x in (delta, shift, units)))
    posed = jax.jit(animate.pose_avatar)(avatar, deltas)
    index = jnp.array([150, 3, 70, 3])
    points = jax.jit(animate.pose_points)(avatar, deltas, index)
    np.testing.assert_allclose(points, posed.means[:, index], atol=1e-5)
    rest = Rotation.from_rotvec(np.asarray(avatar.rest.rotations, float))
    for t in range(2):
        points = np.array(avatar.means, float)
        points[: avatar.n_face] += np.einsum("nek,e->nk", avatar.face_units, units[t])
        turned = (rest * Rotation.from_rotvec(delta[t])).as_matrix()
        translation = np.asarray(avatar.rest.translation, float) + shift[t]
        means, linear = skinned(avatar, points, turned, translation)
        np.testing.assert_allclose(posed.means[t], means, atol=2e-5)
        np.testing.assert_allclose(posed.linear[t], linear, atol=2e-5)


def test_offsets_follow_equations_6_and_7(toys):
    avatar = toys.avatar()
    rng = np.random.default_rng(1)
    count = avatar.means.shape[0]
    stretch = 0.1 * rng.normal(size=(count, 3, 3))
    stretch += np.swapaxes(stretch, -1, -2)
    turn = Rotation.from_quat(rng.normal(size=(count, 4))).as_matrix()
    offsets = Offsets(
        *map(
            jnp.float32,
            (np.zeros((count, 3)), stretch, rng.normal(size=count), rng.normal(size=(count, 3))),
        )
    )
    gaussians = animate.apply_offsets(avatar, avatar.means, jnp.float32(turn), offsets)
    # Sigma* = (I + dS_w) Sigma' (I + dS_w)^T with dS_w = A dS A^-1, the stretch seen in the world.
    factor = Rotation.from_quat(np.roll(np.asarray(avatar.quats), -1, 1)).as_matrix()
    factor = factor * np.asarray(avatar.scales)[:, None]
    skinned_factor = turn @ factor
    sigma = skinned_factor @ np.swapaxes(skinned_factor, -1, -2)
    world = np.eye(3) + turn @ stretch @ np.swapaxes(turn, -1, -2)
    expected = world @ sigma @ np.swapaxes(world, -1, -2)
    root = np.asarray(gaussians.linear, float) @ factor
    actual = root @ np.swapaxes(root, -1, -2)
    np.testing.assert_allclose(actual, expected, atol=1e-9)
    assert np.linalg.eigvalsh(actual).min() > -1e-18
    np.testing.assert_allclose(
        gaussians.opacities,
        np.clip(np.asarray(avatar.opacities) + np.asarray(offsets.opacity), 0, 1),
    )
    assert gaussians.colors.min() >= 0
    assert gaussians.colors.max() <= 1


def test_gradients_of_applied_offsets(toys):
    with jax.enable_x64(True):
        avatar = toys.avatar(count=12, n_face=4, n_hand=4, dtype=np.float64)
        rng = np.random.default_rng(2)
        shapes = ((12, 3), (12, 3, 3), (12,), (12, 3))
        offsets = Offsets(*(jnp.asarray(0.02 * rng.normal(size=shape)) for shape in shapes))
        linear = jnp.asarray(rng.normal(size=(12, 3, 3)))

        def loss(offsets):
            gaussians = animate.apply_offsets(avatar, avatar.means, linear, offsets)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(gaussians))

        check_grads(jax.jit(loss), (offsets,), order=1, modes=("rev",), rtol=1e-6)


def test_points_are_those_of_the_posed_gaussians(scene):
    driver, params, avatar, drive, posed = scene
    index = jnp.array([150, 3, 70, 3])

    @jax.jit
    def points(params):
        code = animate.encode(driver, params, avatar)
        window = whole(drive, CONFIG.halo)
        motion, _ = animate.track(driver, params, code, window, initial_state(CONFIG))
        return animate.deform_points(driver, params, avatar, code, motion, index)[0]

    np.testing.assert_allclose(points(params), posed.means[:, index], atol=1e-5)
    assert float(jnp.abs(posed.means[1:] - posed.means[:-1]).max()) > 1e-3


def test_one_camera_per_frame(scene, toys):
    _, _, _, _, posed = scene
    posed = jax.tree.map(lambda leaf: leaf[:2], posed)
    camera, moved = toys.camera(), toys.camera()
    moved = dataclasses.replace(moved, viewmat=moved.viewmat.at[0, 3].set(0.2))
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), camera, moved)
    render = functools.partial(jax.jit(animate.render_frames), background=jnp.ones(3))
    actual = render(posed, both)
    for t, view in enumerate((camera, moved)):
        np.testing.assert_allclose(actual.images[t], render(posed, view).images[t], atol=1e-6)
    assert jnp.abs(render(posed, camera).images[1] - actual.images[1]).max() > 0.05


def test_projection(toys):
    camera = toys.camera(size=40, focal=50.0)
    turn = Rotation.from_rotvec([0.1, -0.2, 0.3]).as_matrix()
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = turn, [0.1, 0.2, 3.0]
    camera = dataclasses.replace(camera, viewmat=jnp.float32(viewmat))
    points = np.random.default_rng(3).uniform(-1, 1, (2, 7, 3))
    seen = points @ turn.T + viewmat[:3, 3]
    expected = 50 * seen[..., :2] / seen[..., 2:] + 20
    actual = animate.project_points(jnp.float32(points), camera)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    cameras = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), camera)
    np.testing.assert_allclose(
        animate.project_points(jnp.float32(points), cameras), expected, rtol=1e-5
    )


def test_body_follows_given_transforms_and_the_rest_the_speech(scene, toys):
    """Joints 0 to 21 stand as in an explicit pose, the others turn as the driver turns them."""
    driver, params, avatar, drive, _ = scene
    rng = np.random.default_rng(4)
    vectors = 0.3 * rng.normal(size=(FRAMES, 55, 3))
    shifts = rng.normal(size=(FRAMES, 3))
    deltas = BodyPose(
        jnp.float32(vectors), jnp.float32(shifts), jnp.zeros((FRAMES, avatar.face_units.shape[1]))
    )

    def moved(params):
        code = animate.encode(driver, params, avatar)
        window = whole(drive, CONFIG.halo)
        spoken, _ = animate.track(driver, params, code, window, initial_state(CONFIG))
        body = animate.delta_transforms(avatar, deltas)[:, : animate.BODY_JOINTS]
        return code, spoken, animate.follow(spoken, body)

    @jax.jit
    def run(params):
        code, spoken, followed = moved(params)
        return spoken, followed, animate.deform_frames(driver, params, avatar, code, followed)

    spoken, followed, deformed = run(params)
    np.testing.assert_array_equal(followed.transforms[:, 22:], spoken.transforms[:, 22:])
    np.testing.assert_array_equal(followed.driving, spoken.driving)
    rest = Rotation.from_rotvec(np.asarray(avatar.rest.rotations, float))
    for t in (0, FRAMES - 1):
        wxyz = np.asarray(spoken.transforms[t], float)
        turned = (rest * Rotation.from_quat(wxyz[:, [1, 2, 3, 0]])).as_matrix()
        turned[:22] = (rest * Rotation.from_rotvec(vectors[t])).as_matrix()[:22]
        translation = np.asarray(avatar.rest.translation, float) + shifts[t]
        points = np.asarray(avatar.means + deformed.offsets.position[t])
        local = np.zeros((55, 3))
        local[22:] = Rotation.from_rotvec(avatar.rest.rotations[22:]).apply(wxyz[22:, 4:])
        means, _ = skinned(avatar, points, turned, translation, local)
        np.testing.assert_allclose(deformed.gaussians.means[t], means, atol=3e-5)

    @jax.jit
    @jax.grad
    def slope(params):
        code, _, followed = moved(params)
        index = jnp.array([150, 3, 70])
        return jnp.sum(animate.deform_points(driver, params, avatar, code, followed, index)[0] ** 2)

    gradient = jax.tree.leaves(slope(params))
    assert all(np.isfinite(leaf).all() for leaf in gradient)
    assert any(np.abs(leaf).max() > 0 for leaf in gradient)
