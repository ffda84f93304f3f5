"""Rigid transforms to rotations, and what the driver did as a clip that is read back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from jaxavatar import animate
from jaxavatar.body import JOINTS, LANDMARKS, PARENTS, load_template
from jaxavatar.motion import (
    driven_clip,
    jaw_of_opening,
    load_motion,
    motion_deltas,
    mouth_opening,
    project,
    save_motion,
)
from jaxavatar.motion.project import RADIUS

JOINT = np.asarray(load_template().joints, float)


def local(frames, seed, shift):
    rng = np.random.default_rng(seed)
    vectors = 0.4 * rng.normal(size=(frames, 55, 3))
    matrices = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(frames, 55, 3, 3)
    return vectors, matrices, shift * rng.normal(size=(frames, 55, 3))


def chain(rotations, translations):
    """Follow the tree in 4x4 matrices; return world rotations and positions."""
    worlds = []
    for m, parent in enumerate(PARENTS):
        step = np.eye(4)
        step[:3, :3] = rotations[m]
        step[:3, 3] = JOINT[m] - (JOINT[parent] if m else 0) + translations[m]
        worlds.append(worlds[parent] @ step if m else step)
    worlds = np.stack(worlds)
    return worlds[:, :3, :3], worlds[:, :3, 3]


def test_pure_rotations_are_kept():
    vectors, matrices, shifts = local(4, 0, 0.0)
    shifts[:, 0] = np.random.default_rng(1).normal(size=(4, 3))
    fitted = project(JOINT, matrices, shifts)
    np.testing.assert_allclose(fitted.rotations, vectors, atol=1e-9)
    np.testing.assert_allclose(fitted.translation, JOINT[0] + shifts[:, 0], atol=1e-12)
    assert fitted.error.max() < 1e-12


def test_errors_are_the_distances_of_the_joints():
    _, matrices, shifts = local(3, 2, 0.005)
    fitted = project(JOINT, matrices, shifts)
    for t in range(3):
        _, true = chain(matrices[t], shifts[t])
        turned = Rotation.from_rotvec(fitted.rotations[t]).as_matrix()
        only_pelvis = np.zeros((55, 3))
        only_pelvis[0] = shifts[t, 0]
        _, reached = chain(turned, only_pelvis)
        np.testing.assert_allclose(
            fitted.error[t], np.linalg.norm(reached - true, axis=1), atol=1e-9
        )
        # Better than dropping the translations.
        _, dropped = chain(matrices[t], only_pelvis)
        naive = np.linalg.norm(dropped - true, axis=1)
        assert (fitted.error[t] ** 2).mean() < 0.7 * (naive**2).mean()


def test_each_rotation_is_a_least_squares_solution():
    """The elbow and the pelvis (three children) against a general solver."""
    _, matrices, shifts = local(1, 3, 0.01)
    fitted = project(JOINT, matrices, shifts)
    turned = Rotation.from_rotvec(fitted.rotations[0]).as_matrix()
    only_pelvis = np.zeros((55, 3))
    only_pelvis[0] = shifts[0, 0]
    world, reached = chain(turned, only_pelvis)
    true_world, true = chain(matrices[0], shifts[0])
    for m in (0, JOINTS.index("left_elbow"), JOINTS.index("spine3")):
        children = [c for c, parent in enumerate(PARENTS) if parent == m]

        def residual(vector, m=m, children=children):
            R = Rotation.from_rotvec(vector).as_matrix()
            bones = (JOINT[children] - JOINT[m]) @ R.T - (true[children] - reached[m])
            return np.concatenate([bones.ravel(), RADIUS * (R - true_world[m]).ravel()])

        start = Rotation.from_matrix(true_world[m]).as_rotvec()
        best = least_squares(residual, start, xtol=1e-14, ftol=1e-14, gtol=1e-14).x
        difference = Rotation.from_rotvec(best).inv() * Rotation.from_matrix(world[m])
        assert difference.magnitude() < 1e-6


def test_what_is_written_moves_the_avatar_alike(toys, tmp_path):
    """Driver's transforms -> clip -> file -> clip -> deltas: the joints and the mouth agree."""
    avatar = dataclasses.replace(toys.avatar(), landmarks=jnp.arange(len(LANDMARKS)))
    rng = np.random.default_rng(4)
    turns = Rotation.from_rotvec(0.2 * rng.normal(size=(2 * 55, 3))).as_quat()[:, [3, 0, 1, 2]]
    shifts = 0.002 * rng.normal(size=(2, 55, 3))
    transforms = np.concatenate([turns.reshape(2, 55, 4), shifts], axis=-1)
    # A mouth that is closed, and half open: the lips' own displacement is linear in the unit.
    unit = load_template().expression_names.index("jawOpen")
    upper, lower = (LANDMARKS.index(f"{side}_lip_inner") for side in ("upper", "lower"))
    lips = np.asarray(avatar.means, float)[np.asarray(avatar.landmarks)]
    direction = lips[lower] - lips[upper]
    units = np.array(avatar.face_units)
    units[:, unit] = 0
    index = np.asarray(avatar.landmarks)[[upper, lower]]
    units[index[1], unit] = direction
    avatar = dataclasses.replace(avatar, face_units=jnp.asarray(units))
    landmarks = np.stack([lips, lips])
    landmarks[1, lower] += 0.5 * direction
    turn = Rotation.from_rotvec([0.3, 1, 2])
    landmarks[1] = turn.apply(landmarks[1]) + 5  # the head may be anywhere
    np.testing.assert_allclose(mouth_opening(avatar, landmarks), [0, 0.5], atol=1e-5)

    clip, error = driven_clip(avatar, transforms, landmarks)
    assert 0 < error.max() < 0.03
    save_motion(tmp_path / "a.npz", clip)
    again = load_motion(tmp_path / "a.npz")
    np.testing.assert_allclose(again.rotations, clip.rotations, atol=1e-6)
    np.testing.assert_allclose(
        again.rotations[:, JOINTS.index("jaw")], jaw_of_opening(np.array([0, 0.5])), atol=1e-5
    )
    deltas = motion_deltas(avatar, again, "camera")
    np.testing.assert_allclose(deltas.expression[:, unit], [0, 0.5], atol=1e-4)
    # Without the translations of the joints, what is written is what the driver did.
    transforms[..., 4:] = 0
    clip, error = driven_clip(avatar, transforms, landmarks)
    assert error.max() < 1e-6
    deltas = motion_deltas(avatar, clip, "camera")
    actual = jax.jit(animate.delta_transforms)(avatar, deltas)
    kept = [m for m in range(55) if m != JOINTS.index("jaw")]
    same = np.abs(np.sum(np.asarray(actual)[:, kept, :4] * transforms[:, kept, :4], axis=-1))
    np.testing.assert_allclose(same, 1, atol=1e-6)
    np.testing.assert_allclose(actual[..., 4:], 0, atol=1e-5)
