"""Cameras of LHM: points fall where the matrices of 3D Gaussian Splatting put them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Config, Gaussians
from pallas_splat.project import project
from scipy.spatial.transform import Rotation

from jaxavatar.reconstruction.transformer.camera import camera_from_lhm


def pixels(c2w, focal, size, point):
    """By fields of view and normalised coordinates; whatever the principal point is."""
    x, y, z = (np.linalg.inv(c2w) @ [*point, 1])[:3]
    fovs = [2 * np.arctan(s / (2 * f)) for s, f in zip(size, focal, strict=True)]
    clip = [axis / (z * np.tan(fov / 2)) for axis, fov in zip((x, y), fovs, strict=True)]
    return [(c + 1) / 2 * s for c, s in zip(clip, size, strict=True)]


@pytest.mark.parametrize("principal", [(24, 32), (20.3, 40.7)])
@pytest.mark.parametrize("rows", [3, 4])
def test_points_fall_where_lhm_puts_them(principal, rows):
    rng = np.random.default_rng(0)
    c2w = np.eye(4)
    c2w[:3, :3] = Rotation.from_rotvec([0.1, -0.3, 0.2]).as_matrix()
    c2w[:3, 3] = [0.2, -0.1, -1.5]
    K = np.eye(rows)
    K[0, 0], K[1, 1], K[:2, 2] = 80, 90, principal
    points = 0.3 * rng.normal(size=(9, 3))
    given = jnp.asarray(c2w, jnp.float32), jnp.asarray(K, jnp.float32)
    size = (48, 64) if principal == (24, 32) else (40, 81)
    camera = camera_from_lhm(*given)
    assert (camera.width, camera.height) == size
    ones = jnp.ones(9)
    gaussians = Gaussians(
        jnp.asarray(points, jnp.float32), jnp.ones((9, 4)), jnp.ones((9, 3)), ones, jnp.ones((9, 3))
    )
    seen = project(gaussians, camera, Config())
    expected = np.array([pixels(c2w, (80, 90), size, point) for point in points])
    np.testing.assert_allclose(np.stack([seen.x, seen.y], 1), expected, atol=1e-3)


def test_given_sizes_under_jit():
    def make(c2w, K):
        return camera_from_lhm(c2w, K, height=64, width=48)

    K = jnp.array([[80.0, 0, 30], [0, 90, 20], [0, 0, 1]])
    camera = jax.jit(make)(jnp.eye(4).at[2, 3].set(2.0), K)
    assert (camera.width, camera.height) == (48, 64)
    np.testing.assert_allclose(camera.K, [[80, 0, 24], [0, 90, 32], [0, 0, 1]])
    np.testing.assert_allclose(camera.viewmat, np.eye(4) - 2 * np.eye(4, k=1) * [0, 0, 0, 1])
