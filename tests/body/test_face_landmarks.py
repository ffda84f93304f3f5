"""The packaged face landmarks lie where their names say, alike on both sides."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from jaxavatar.body import JOINTS, LANDMARKS, VERTEX_GROUPS, load_template
from jaxavatar.body.face_landmarks import load_face_landmarks

# Inner lips of the face mesh, upper and lower, that touch when the mouth is closed.
UPPER, LOWER = (191, 80, 81, 82, 13, 312, 311, 310, 415), (95, 88, 178, 87, 14, 317, 402, 318, 324)


@pytest.fixture(scope="module")
def model():
    return load_template()


@pytest.fixture(scope="module")
def points(model):
    corners, mix = load_face_landmarks()
    return (np.asarray(model.vertices, float)[corners] * mix[:, :, None]).sum(1)


def test_they_are_points_on_triangles(model):
    corners, mix = load_face_landmarks()
    assert corners.shape == mix.shape == (478, 3)
    assert corners.min() >= 0
    assert corners.max() < len(model.vertices)
    assert mix.min() >= 0
    np.testing.assert_allclose(mix.sum(1), 1.0, atol=1e-6)


def test_left_and_right_mirror_each_other(points):
    distance, _ = KDTree(points).query(points * [-1, 1, 1])
    assert distance.max() < 2e-4


def test_they_are_where_their_names_say(model, points):
    """The mesh's own numbers of some spots against the vertices picked by eye on the template."""
    picked = np.asarray(model.vertices)[np.asarray(model.landmarks)]
    for number, name, within in (
        *((4, "nose_tip", 0.008), (152, "chin", 0.015), (61, "mouth_right", 0.005)),
        *((291, "mouth_left", 0.005), (13, "upper_lip_inner", 0.001), (0, "upper_lip", 0.006)),
        *((14, "lower_lip_inner", 0.001), (33, "right_eye_outer", 0.006)),
        *((263, "left_eye_outer", 0.006), (386, "left_eye_upper", 0.004)),
        *((374, "left_eye_lower", 0.004), (133, "right_eye_inner", 0.006)),
    ):
        off = np.linalg.norm(points[number] - picked[LANDMARKS.index(name)])
        assert off < within, (name, off)


def test_inner_lips_touch_and_the_jaw_parts_them(model, points):
    corners, mix = load_face_landmarks()
    upper, lower = points[list(UPPER)], points[list(LOWER)]
    assert np.abs(upper - lower)[:, :2].max() < 2e-4
    assert np.abs(upper - lower)[:, 2].max() < 2e-3
    jaw = np.asarray(model.expression_dirs)[model.expression_names.index("jawOpen")]
    opened = (jaw[corners] * mix[:, :, None]).sum(1)
    gap = opened[list(UPPER), 1] - opened[list(LOWER), 1]
    assert gap.min() > 0.005
    assert gap[4] > 0.015
    np.testing.assert_allclose(gap, gap[::-1], atol=5e-4)


def test_irises_look_ahead_from_the_eyeballs(model, points):
    corners, _ = load_face_landmarks()
    group = np.asarray(model.vertex_group)[corners]
    for first, eye in ((468, "right_eye"), (473, "left_eye")):
        assert (group[first : first + 5] == VERTEX_GROUPS.index(eye)).all()
        centre = points[first] - np.asarray(model.joints)[JOINTS.index(eye)]
        assert np.abs(centre[:2]).max() < 5e-4
        assert centre[2] > 0.012
        ring = points[first + 1 : first + 5] - points[first]
        directions = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
        np.testing.assert_allclose(ring[:, :2], 0.0059 * directions, atol=8e-4)
    assert (group[:468] == VERTEX_GROUPS.index("body")).all()
