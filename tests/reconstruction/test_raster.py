"""The rasteriser against one pixel, one triangle at a time."""

import numpy as np
import pytest

from jaxavatar.reconstruction.raster import rasterise

SIZE = (23, 31)


def brute_force(points, depth, faces, size):
    """Solve for the barycentric weights of every pixel centre in every triangle."""
    owner = np.full(size, -1)
    weights = np.zeros((*size, 3))
    nearest = np.full(size, np.inf)
    for number, corners in enumerate(faces):
        if (depth[corners] <= 0).any():
            continue
        system = np.concatenate([points[corners].T, np.ones((1, 3))])
        for y in range(size[0]):
            for x in range(size[1]):
                w = np.linalg.solve(system, [x + 0.5, y + 0.5, 1.0])
                z = w @ depth[corners]
                if (w >= 0).all() and z < nearest[y, x]:
                    owner[y, x], weights[y, x], nearest[y, x] = number, w, z
    return owner, weights


@pytest.fixture(scope="module")
def scene():
    """Triangles of all sizes, some partly or wholly outside, some behind the camera."""
    rng = np.random.default_rng(3)
    middle = rng.uniform(-5, 35, (30, 1, 2))
    size = 10 ** rng.uniform(-0.3, 1.5, (30, 1, 1))
    points = (middle + size * rng.normal(size=(30, 3, 2))).reshape(-1, 2)
    depth = rng.uniform(1, 3, 90)
    depth[[4, 40]] = [-1.0, 0.0]
    return points, depth, np.arange(90).reshape(30, 3)


def test_agrees_with_brute_force(scene):
    points, depth, faces = scene
    owner, weights = rasterise(points, depth, faces, SIZE)
    expected, expected_weights = brute_force(points, depth, faces, SIZE)
    assert len(np.unique(expected)) > 12
    np.testing.assert_array_equal(owner, expected)
    np.testing.assert_allclose(weights, expected_weights, atol=1e-9)


def test_the_winding_does_not_matter(scene):
    points, depth, faces = scene
    owner, weights = rasterise(points, depth, faces, SIZE)
    turned, turned_weights = rasterise(points, depth, faces[:, ::-1], SIZE)
    np.testing.assert_array_equal(turned, owner)
    np.testing.assert_allclose(turned_weights[..., ::-1], weights, atol=1e-9)


def test_a_shared_edge_leaves_no_gap():
    """Two triangles that make up the image own every pixel, also those on the diagonal."""
    points = np.array([[0.0, 0], [8, 0], [8, 8], [0, 8]])
    owner, weights = rasterise(points, np.ones(4), np.array([[0, 1, 2], [0, 2, 3]]), (8, 8))
    y, x = np.mgrid[:8, :8]
    np.testing.assert_array_equal(owner[x != y], (y > x)[x != y])
    assert set(np.diag(owner)) <= {0, 1}
    np.testing.assert_allclose(weights.sum(-1), 1.0)


def test_nothing_in_view():
    faces = np.array([[0, 1, 2]])
    away = np.array([[50.0, 50], [60, 50], [50, 60]])
    owner, weights = rasterise(away, np.ones(3), faces, (4, 4))
    assert (owner == -1).all()
    assert not weights.any()
