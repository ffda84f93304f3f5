"""The fit finds a known person again, and ignores what nobody saw."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.body import JOINTS
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.reconstruction.fit import fit_body, resize_hands
from jaxavatar.reconstruction.surface import build_surface

SIZE = (192, 160)


def angles(fit, other):
    """Degrees between the local rotations of two fits, by joint name."""
    difference = np.asarray(fit.pose.rotations - other.pose.rotations)
    return dict(zip(JOINTS, np.rad2deg(np.linalg.norm(difference, axis=1)), strict=True))


def test_landmarks_are_met(fitted):
    """In a picture where the shoulders are 65 pixels apart; the priors pull a little."""
    pose, hands, face = np.asarray(fitted.error)
    assert pose < 1.0
    assert hands < 0.6
    assert face < 0.25


def test_the_reported_error_is_that_of_the_whole_mesh(model, truth, fitted, findings):
    """Face error again, from the fit's betas and pose through the full template."""
    posed = np.asarray(build_surface(model, fitted, None).posed, float)
    corners, mix = load_face_landmarks()
    pixels = truth.project((posed[corners] * mix[:, :, None]).sum(1))
    error = np.sqrt(((pixels - findings.face.points) ** 2).sum(1).mean())
    assert error == pytest.approx(float(fitted.error[2]), rel=0.05)


def test_the_pose_is_found_again(truth, fitted):
    turned = angles(fitted, truth.fit)
    seen = ("pelvis", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist")
    for name in (*seen, "head"):
        assert turned[name] < 10, (name, turned[name])
    assert np.abs(fitted.pose.translation - truth.fit.pose.translation).max() < 0.08


def test_it_comes_from_the_landmarks_not_from_the_prior(model, truth, findings, fitted):
    """With the raised forearm unseen it hangs like the prior's."""
    blind = dataclasses.replace(
        findings,
        pose=dataclasses.replace(
            findings.pose, visibility=np.where(np.isin(range(33), (13, 15)), 0.0, 1.0)
        ),
        left_hand=None,
    )
    hidden = fit_body(model, blind, SIZE)
    assert angles(hidden, truth.fit)["left_elbow"] > 25
    assert angles(fitted, truth.fit)["left_elbow"] < 10


def test_unseen_landmarks_do_not_matter(model, findings, fitted):
    """Invisible legs may lie anywhere."""
    points = findings.pose.points.copy()
    points[25:] += 300.0
    moved = dataclasses.replace(findings, pose=dataclasses.replace(findings.pose, points=points))
    again = fit_body(model, moved, SIZE)
    for a, b in zip(jax.tree.leaves(fitted), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_body_without_face_and_hands_is_fitted_too(model, truth, findings):
    bare = dataclasses.replace(findings, face=None, left_hand=None)
    fit = fit_body(model, bare, SIZE)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit))
    assert fit.error[0] < 1.0
    assert not fit.error[1:].any()
    assert np.abs(fit.pose.expression).max() < 1e-3
    assert angles(fit, truth.fit)["right_elbow"] < 15


def test_face_units_stay_between_zero_and_one(fitted):
    assert fitted.pose.expression.min() > -0.05
    assert fitted.pose.expression.max() < 1.05


def test_resizing_scales_a_hand_about_its_wrist(model):
    points, joints = resize_hands(
        model.vertices, model.weights, model.joints, jnp.log(jnp.array([1.5, 1.0]))
    )
    wrist = JOINTS.index("left_wrist")
    fingers = slice(25, 40)
    np.testing.assert_allclose(
        joints[fingers] - joints[wrist],
        1.5 * (model.joints[fingers] - model.joints[wrist]),
        atol=1e-6,
    )
    moved = np.linalg.norm(np.asarray(points - model.vertices), axis=1)
    share = np.asarray(model.weights)[:, [wrist, *range(25, 40)]].sum(1)
    assert (moved[share == 0] == 0).all()
    tip = np.argmax(model.vertices[:, 0])
    np.testing.assert_allclose(
        points[tip] - joints[wrist], 1.5 * (model.vertices[tip] - joints[wrist]), atol=1e-5
    )
