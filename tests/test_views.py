from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar import views
from jaxavatar.structs import FPS


@pytest.fixture
def avatar(toys):
    K = jnp.array([[400.0, 0, 150], [0, 410, 260], [0, 0, 1]])
    return toys.avatar().replace(K=K, image_size=(501, 301))


def pixel(camera, point, frame: Any = ...):
    seen = camera.viewmat[frame][..., :3, :3] @ point + camera.viewmat[frame][..., :3, 3]
    image = camera.K[frame] @ seen
    return np.asarray(image[..., :2] / image[..., 2:]), float(np.linalg.norm(seen))


def test_photo_camera_sees_what_the_photo_shows(avatar):
    point = jnp.array([0.2, -0.3, 2.0])
    camera = views.photo_camera(avatar, 100)
    assert (camera.height, camera.width) == (100, 60)
    relative, _ = pixel(camera, point)
    photo = (avatar.K @ point)[:2] / point[2]
    np.testing.assert_allclose(relative / [60, 100], np.asarray(photo) / [301, 501], rtol=1e-5)
    enlarged = views.photo_camera(avatar, 1002)
    assert (enlarged.height, enlarged.width) == (1002, 602)


def test_orbit_turns_around_the_person(avatar):
    frames = int(views.ORBIT_SECONDS * FPS)
    camera = views.orbit(avatar, 100, frames)
    front = views.photo_camera(avatar, 100)
    np.testing.assert_allclose(camera.viewmat[0], front.viewmat, atol=1e-6)
    np.testing.assert_allclose(camera.K[0], front.K)
    pelvis = avatar.rest.translation
    at = [pixel(camera, pelvis, frame) for frame in range(0, frames, 10)]
    here = pixel(front, pelvis)
    for place, distance in at:
        np.testing.assert_allclose(place, here[0], atol=1e-3)
        assert distance == pytest.approx(here[1], abs=1e-5)
    # The level stays level, and the widest view is 25 degrees off the front, on both sides.
    np.testing.assert_allclose(camera.viewmat[:, 1, :3], np.tile([0, 1, 0], (frames, 1)), atol=1e-6)
    angles = np.rad2deg(np.arctan2(camera.viewmat[:, 0, 2], camera.viewmat[:, 0, 0]))
    assert angles.max() == pytest.approx(25, abs=0.05)
    assert angles.min() == pytest.approx(-25, abs=0.05)
    assert np.abs(np.diff(angles)).max() < 1


def test_positive_angles_show_the_persons_left_side(avatar):
    # A point before the pelvis (nearer to the camera) moves to the image's left.
    camera = views.side_cameras(avatar, 100, np.array([0.0, 0.3]))
    before = avatar.rest.translation - jnp.array([0, 0, 0.5])
    assert pixel(camera, before, 1)[0][0] < pixel(camera, before, 0)[0][0] - 1
