"""The surface meets the landmarks, closes the lips and leaves the rest of the body alone."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial import KDTree

from jaxavatar.body import VERTEX_GROUPS
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.reconstruction.surface import LIP_PAIRS, build_surface, jaw_share

UPPER, LOWER = np.array(LIP_PAIRS).T


def landmarks(vertices):
    corners, mix = load_face_landmarks()
    return (np.asarray(vertices, float)[corners] * mix[:, :, None]).sum(1)


@pytest.fixture(scope="module")
def stretched(findings):
    """The person's landmarks on a face a tenth wider, which the template's shapes did not give."""
    points = findings.face.points
    middle = points.mean(0)
    wider = middle + (points - middle) * [1.1, 1.0]
    return dataclasses.replace(findings.face, points=wider)


@pytest.fixture(scope="module")
def surfaces(model, truth, stretched):
    """Without a face, and with the stretched one."""
    return build_surface(model, truth.fit, None), build_surface(model, truth.fit, stretched)


def test_without_a_face_the_surface_is_the_fit(truth, surfaces):
    np.testing.assert_allclose(surfaces[0].posed, truth.posed, atol=1e-5)


def test_the_surface_meets_the_landmarks(truth, stretched, surfaces):
    """To a tenth of a pixel (0.6 mm here), from a third of a pixel and more before."""
    bare, met = (
        np.linalg.norm(truth.project(landmarks(s.posed)) - stretched.points, axis=1)[:468]
        for s in surfaces
    )
    assert np.median(bare) > 0.3
    assert np.median(met) < 0.1
    assert np.percentile(met, 95) < 0.3


def test_irises_are_met_by_moving_whole_eyes(model, truth, stretched, surfaces):
    bare, met = surfaces
    points = truth.project(landmarks(met.posed))
    for group, irises in ((1, slice(473, 478)), (2, slice(468, 473))):
        assert np.abs((points[irises] - stretched.points[irises]).mean(0)).max() < 0.05
        eye = np.asarray(model.vertex_group) == group
        moved = np.asarray(met.photo - bare.photo)[eye]
        assert np.linalg.norm(moved, axis=1).min() > 1e-4
        np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-6)


def test_teeth_and_tongue_stay_rigid(model, surfaces):
    mouth = np.asarray(model.vertex_group) >= VERTEX_GROUPS.index("upper_teeth")
    moved = np.asarray(surfaces[1].photo - surfaces[0].photo)[mouth]
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-6)


def test_only_the_head_moves(model, surfaces):
    home = np.asarray(model.vertices)
    away = KDTree(landmarks(home)).query(home)[0] > 0.1
    assert away.sum() > 5000
    for field in ("neutral", "photo", "posed"):
        a, b = (np.asarray(getattr(s, field))[away] for s in surfaces)
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_neutral_lips_touch_as_the_templates_do(model, surfaces):
    """The photo's jaw is 15 % open; up and down the neutral lips are the template's again."""
    home = landmarks(model.vertices)
    for surface in surfaces:
        neutral, photo = landmarks(surface.neutral), landmarks(surface.photo)
        change = (neutral[UPPER] - neutral[LOWER]) - (home[UPPER] - home[LOWER])
        assert np.abs(change[:, 1:]).max() < 5e-4
        # The centre pair is apart in the photo.
        assert photo[13, 1] - photo[14, 1] > home[13, 1] - home[14, 1] + 0.002


def test_the_jaw_share_tells_lower_from_upper_lip(model):
    share = jaw_share(model)
    corners, mix = load_face_landmarks()
    on_lips = (share[corners] * mix).sum(1)
    assert share.min() >= 0
    assert share.max() == 1
    assert on_lips[LOWER].min() > on_lips[UPPER].max() + 0.1
