"""A clip on an avatar: absolute rotations reached, placement, jaw, cameras."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxavatar import animate
from jaxavatar.body import (
    JOINTS,
    LANDMARKS,
    PARENTS,
    load_template,
    local_transforms,
    posed_joints,
    skin,
    skinning_transforms,
)
from jaxavatar.motion import (
    MotionCamera,
    MotionClip,
    expression_of_jaw,
    jaw_of_opening,
    motion_camera,
    motion_deltas,
)

ROOT = pathlib.Path(__file__).parents[2]
PARITY = pathlib.Path(os.environ.get("JAXAVATAR_PARITY", ROOT / "../shared/data/parity"))
JAW = JOINTS.index("jaw")


def made(pose, present=None, camera=None):
    walk = np.random.default_rng(2).normal(loc=[0, 0, 3], size=(len(pose), 3))
    present = np.ones(55, bool) if present is None else present
    return MotionClip(pose, walk, present, 25.0, camera, ())


@pytest.mark.parametrize("placement", ["photo", "camera"])
def test_the_avatar_reaches_the_motions_pose(toys, made_pose, placement):
    avatar, pose = toys.avatar(), made_pose(3)
    pose[:, JAW] = 0
    clip = made(pose)
    deltas = motion_deltas(avatar, clip, placement)
    posed = jax.jit(animate.pose_avatar)(avatar, deltas)
    pose[:, JAW] = avatar.rest.rotations[JAW]  # the joint itself stays
    home = np.asarray(avatar.rest.translation) + np.asarray(avatar.joints[0])
    place = clip.translation
    if placement == "photo":
        place = home + clip.translation - clip.translation[0]
    for t in range(3):
        # The pelvis of `local_transforms` is displaced from its rest position.
        shift = jnp.float32(place[t] - np.asarray(avatar.joints[0]))
        local = local_transforms(jnp.float32(pose[t]), shift)
        expected = posed_joints(avatar.joints, local, PARENTS)
        np.testing.assert_allclose(expected[0], place[t], atol=1e-5)
        # Posed absolutely, without the rest pose.
        transforms = skinning_transforms(avatar.joints, local, PARENTS)
        means, _ = skin(avatar.means, avatar.weights, transforms)
        np.testing.assert_allclose(posed.means[t], means, atol=2e-5)


def test_joints_that_the_clip_lacks_rest(toys, made_pose):
    avatar = toys.avatar()
    present = np.zeros(55, bool)
    present[:22] = True
    deltas = motion_deltas(avatar, made(made_pose(2), present))
    assert not deltas.rotations[:, 22:].any() and not deltas.expression.any()
    rest = Rotation.from_rotvec(np.asarray(avatar.rest.rotations, float)[:22])
    for t in range(2):
        reached = rest * Rotation.from_rotvec(np.asarray(deltas.rotations[t, :22], float))
        wanted = Rotation.from_rotvec(made_pose(2)[t, :22])
        assert (reached.inv() * wanted).magnitude().max() < 1e-5


def test_jaw_angles_move_the_lip_as_the_jaw_would():
    """At any angle the lower lip goes as far from its place as a rigid jaw would carry it."""
    template = load_template()
    vertex = int(template.landmarks[LANDMARKS.index("lower_lip_inner")])
    lever = np.asarray(template.vertices[vertex] - template.joints[JAW], float)
    for axis, angles in ((0, (0.05, 0.2, 0.35)), (1, (-0.06, 0.03, 0.06))):
        for angle in angles:
            turn = np.zeros((1, 3))
            turn[0, axis] = angle
            units = expression_of_jaw(turn)[0]
            moved = units @ np.asarray(template.expression_dirs[:, vertex])
            rigid = Rotation.from_rotvec(turn[0]).apply(lever) - lever
            shown = [1, 2] if axis == 0 else [0]
            length, expected = np.linalg.norm(moved[shown]), np.linalg.norm(rigid[shown])
            assert abs(length - expected) < 0.02 * expected + 1e-4
            assert np.sign(moved[shown[0]]) == np.sign(rigid[shown[0]])
    assert expression_of_jaw(np.array([[9.0, 0, 0], [-1, 0, 0]])).max(1).tolist() == [1, 0]


def test_opening_and_angle_are_inverse():
    opening = np.array([0.0, 0.3, 1.0])
    units = expression_of_jaw(jaw_of_opening(opening))
    np.testing.assert_allclose(units.sum(1), opening, atol=1e-6)
    index = load_template().expression_names.index("jawOpen")
    np.testing.assert_allclose(units[:, index], opening, atol=1e-6)


def test_cameras_are_the_clips(toys, made_pose):
    frames = 2
    focal = np.array([[1000.0, 1010.0], [900.0, 910.0]])
    centre = np.array([[350.0, 600.0], [360.0, 640.0]])
    clip = made(made_pose(frames), camera=MotionCamera(focal, centre, (720, 1280)))
    camera = motion_camera(clip, 320)
    assert (camera.width, camera.height) == (180, 320)
    points = jnp.float32(np.random.default_rng(0).uniform([-1, -1, 3], [1, 1, 5], (frames, 5, 3)))
    pixels = animate.project_points(points, camera)
    full = np.asarray(points)
    expected = full[..., :2] / full[..., 2:] * focal[:, None] + centre[:, None]
    np.testing.assert_allclose(pixels, expected / 4, rtol=1e-5)
    with pytest.raises(ValueError, match="no cameras"):
        motion_camera(made(made_pose(1)), 64)


def test_recorded_cameras_of_lhm(made_pose):
    """Points in the camera's frame land where LHM's matrices put them (its centre is centred)."""
    paths = sorted(PARITY.glob("camera_*.npz"))
    if not paths:
        pytest.skip("the reference outputs are not here")
    for path in paths:
        with np.load(path) as data:
            stored = {key: np.asarray(data[key], float) for key in data}
        intrinsic = stored["in/intrinsic"]
        focal = np.diag(intrinsic)[:2]
        size = 2 * focal * np.tan([stored["out/fovx"] / 2, stored["out/fovy"] / 2])
        width, height = np.round(size).astype(int).tolist()
        seen = MotionCamera(focal[None], intrinsic[None, :2, 2], (width, height))
        camera = motion_camera(made(made_pose(1), camera=seen), max(width, height))
        assert (camera.width, camera.height) == (width, height)
        inside = np.random.default_rng(1).uniform([-1, -1, 3], [1, 1, 5], (1, 20, 3))
        c2w = stored["in/c2w"]
        world = inside @ c2w[:3, :3].T + c2w[:3, 3]
        points = np.concatenate([world, np.ones((1, 20, 1))], axis=-1)
        clip = points @ stored["out/full_proj_transform"]
        half = np.array([width, height]) / 2
        expected = half * (clip[..., :2] / clip[..., 3:]) + intrinsic[:2, 2]
        actual = animate.project_points(jnp.float32(inside), camera)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)
