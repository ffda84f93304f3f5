"""Cameras that go with the head."""

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest

from jaxavatar import animate, body, head_view
from jaxavatar.data.people import random_actor

HEAD = body.JOINTS.index("head")


@pytest.fixture(scope="module")
def actor():
    return random_actor(3, (300, 60, 150))


def landmarks(actor, transforms):
    """Project the posed landmarks of one frame, by SciPy-free plain algebra in float64."""
    joints = np.asarray(animate.joint_transforms(actor, transforms), float)
    index = np.asarray(actor.landmarks)
    blend = np.einsum("nj,jab->nab", np.asarray(actor.weights, float)[index], joints)
    means = np.asarray(actor.means, float)[index]
    return np.einsum("nab,nb->na", blend[..., :3], means) + blend[..., 3]


def project(points, viewmat, K):
    seen = points @ np.asarray(viewmat, float)[:3, :3].T + np.asarray(viewmat, float)[:3, 3]
    return seen[:, :2] / seen[:, 2:] * K[0, 0] + np.asarray(K)[:2, 2]


def test_the_mouth_is_in_the_middle_and_upright(actor):
    camera = head_view.head_camera(actor, 64)
    rest = jnp.zeros((len(body.JOINTS), 7)).at[:, 0].set(1.0)
    seen = project(landmarks(actor, rest), camera.viewmat, np.asarray(camera.K, float))
    names = dict(zip(body.LANDMARKS, seen, strict=False))
    lips = (names["upper_lip_inner"] + names["lower_lip_inner"]) / 2
    assert abs(lips[0] - 32) < 1
    assert 32 < lips[1] < 42
    assert names["nose_tip"][1] < lips[1] < names["chin"][1]
    # The person's left is at the right of the picture.
    assert names["left_eye_outer"][0] > names["right_eye_outer"][0]


def test_yaw_shows_the_left_side_and_pitch_the_top(actor):
    rest = jnp.zeros((len(body.JOINTS), 7)).at[:, 0].set(1.0)
    points = landmarks(actor, rest)
    eyes = [body.LANDMARKS.index(name) for name in ("left_eye_outer", "right_eye_outer")]

    def middle_of_eyes(**angles):
        camera = head_view.head_camera(actor, 64, **angles)
        return project(points, camera.viewmat, np.asarray(camera.K, float))[eyes].mean(0)

    # The eyes lie behind the lips, about which the camera turns: seen from the person's left they
    # move to the right of the picture, and seen from above higher than from below.
    right, down = middle_of_eyes(yaw=0.4) - middle_of_eyes()
    assert right > 2
    assert abs(down) < 0.5
    right, down = middle_of_eyes(pitch=0.3) - middle_of_eyes(pitch=-0.3)
    assert abs(right) < 0.5
    assert down < -1


def test_a_nod_moves_nothing_in_the_view_that_follows(actor):
    rng = np.random.default_rng(0)
    twists = np.zeros((3, len(body.JOINTS), 6), np.float32)
    twists[1:, : HEAD + 1, 3:] = 0.1 * rng.standard_normal((2, HEAD + 1, 3))
    twists[1:, 0, :3] = 0.05
    transforms = jax.vmap(jax.vmap(lambda t: jaxlie.SE3.exp(t).wxyz_xyz))(jnp.asarray(twists))
    camera = head_view.head_camera(actor, 64, yaw=0.2)
    views = head_view.follow_head(actor, camera, transforms)
    rigid = np.asarray(actor.weights)[np.asarray(actor.landmarks), HEAD] > 0.999
    assert rigid.sum() >= 3
    still = project(landmarks(actor, transforms[0]), camera.viewmat, np.asarray(camera.K, float))
    for frame in range(3):
        moved = landmarks(actor, transforms[frame])
        seen = project(moved, views.viewmat[frame], np.asarray(camera.K, float))
        np.testing.assert_allclose(seen[rigid], still[rigid], atol=2e-3)
        if frame:
            unfollowed = project(moved, camera.viewmat, np.asarray(camera.K, float))
            assert np.abs(unfollowed[rigid] - still[rigid]).max() > 3
