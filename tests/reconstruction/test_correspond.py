"""The landmark model is the mesh's own points; targets weigh what was seen."""

import dataclasses

import numpy as np

from jaxavatar.body import JOINTS
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.reconstruction import correspond
from jaxavatar.reconstruction.fit import posed_landmarks


def test_the_reduced_model_poses_like_the_whole_mesh(model, truth):
    """Shape, expression and pose of the few points equal those of 13 886 vertices."""
    fit = truth.fit
    points = posed_landmarks(
        correspond.landmark_model(model),
        model.joints,
        correspond.shape_directions(model)[1],
        fit.pose,
        fit.betas,
        fit.hands,
    )
    corners, mix = load_face_landmarks()
    face = (truth.posed[corners] * mix[:, :, None]).sum(1)
    assert points.shape == (14 + 42 + 478, 3)
    np.testing.assert_allclose(points[56:], face, atol=2e-4)  # weights are mixed before skinning
    np.testing.assert_allclose(points[2], truth.joints[JOINTS.index("left_elbow")], atol=1e-5)
    np.testing.assert_allclose(points[35], truth.joints[JOINTS.index("right_wrist")], atol=1e-5)
    for k, name in ((14 + 5, "left_index1"), (35 + 19, "right_pinky3"), (14 + 3, "left_thumb3")):
        np.testing.assert_allclose(points[k], truth.joints[JOINTS.index(name)], atol=1e-5)


def test_finger_tips_end_their_fingers(model, truth):
    """No vertex of the finger is farther along the finger than its tip."""
    points = np.asarray(correspond.landmark_model(model).points)
    vertices, joints = np.asarray(model.vertices), np.asarray(model.joints)
    owner = np.asarray(model.weights).argmax(1)
    fingers = [(s, f) for s in ("left", "right") for f in correspond._FINGERS]
    for tip, (side, finger) in zip(points[:10], fingers, strict=True):
        last = JOINTS.index(f"{side}_{finger}3")
        along = joints[last] - joints[JOINTS.index(f"{side}_{finger}2")]
        along /= np.linalg.norm(along)
        own = (vertices[owner == last] - joints[last]) @ along
        assert 0.012 < (tip - joints[last]) @ along < 0.04
        assert (tip - joints[last]) @ along >= own.max() - 1e-4


def test_targets_keep_order_and_hide_what_was_not_seen(findings):
    seen = correspond.targets(findings)
    np.testing.assert_allclose(seen.points[0], findings.pose.points[11], atol=1e-4)
    np.testing.assert_allclose(seen.points[13], findings.pose.points[32], atol=1e-4)
    np.testing.assert_allclose(seen.points[14:35], findings.left_hand.points, atol=1e-4)
    np.testing.assert_allclose(seen.points[56:], findings.face.points, atol=1e-4)
    assert (seen.weights[:8] > 0).all()
    assert not seen.weights[8:14].any()  # legs
    assert not seen.weights[35:56].any()  # right hand
    assert not seen.depth_weights[35:56].any()
    assert (seen.weights[14:35] > 0).all()


def test_deviations_follow_the_size_in_the_picture(findings):
    """A photo twice as large gives weights half as large: the fit does not change."""
    pose, face = findings.pose, findings.face
    large = dataclasses.replace(
        findings,
        pose=dataclasses.replace(pose, points=2 * pose.points, depth=2 * pose.depth),
        face=dataclasses.replace(face, points=2 * face.points, depth=2 * face.depth),
        left_hand=None,
    )
    small, twice = correspond.targets(findings), correspond.targets(large)
    parts = np.r_[:14, 56:534]
    np.testing.assert_allclose(twice.weights[parts], small.weights[parts] / 2, rtol=1e-5)
    np.testing.assert_allclose(twice.depth[parts], small.depth[parts] * 2, rtol=1e-4, atol=1e-4)
