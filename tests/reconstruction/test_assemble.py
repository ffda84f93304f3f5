"""An assembled avatar, posed like its photo, is the photo again; at rest it is neutral."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxavatar.body import LANDMARKS, PARENTS, local_transforms, skin, skinning_transforms
from jaxavatar.reconstruction.assemble import assemble, carry_home

SIZE = (192, 160)


@pytest.fixture(scope="module")
def made(model, truth, placed):
    """The avatar and the displacement that gives it the photo's face."""
    surface, placement = placed
    colors = np.full((len(placement.sizes), 3), 0.5)
    return assemble(model, truth.fit, surface, placement, colors, SIZE)


@pytest.fixture(scope="module")
def posed(made):
    """Centres and linear maps of the avatar in its photo's pose."""
    avatar, face = made
    local = local_transforms(avatar.rest.rotations, avatar.rest.translation)
    transforms = skinning_transforms(avatar.joints, local, PARENTS)
    means, linear = skin(avatar.means + jnp.asarray(face), avatar.weights, transforms)
    return np.asarray(means, float), np.asarray(linear, float)


def test_posed_like_the_photo_seen_points_are_on_their_pixels(truth, placed, posed):
    p = placed[1]
    off = np.linalg.norm(truth.project(posed[0][p.seen]) - p.pixel[p.seen], axis=1)
    assert off.max() < 0.05


def test_discs_lie_in_the_surface(placed, made, posed):
    """Posed, the thin axis of a Gaussian stands on the surface; its plane moves by `linear`.

    Where several joints bend the skin the map is no rotation: those few lean a little.
    """
    p = placed[1]
    axes = Rotation.from_quat(np.asarray(made[0].quats), scalar_first=True).as_matrix()
    plane = posed[1] @ axes[:, :, :2]
    normal = np.cross(plane[:, :, 0], plane[:, :, 1])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    along = np.abs((normal * p.normals).sum(1))
    assert np.median(along) > 0.999
    assert np.percentile(along, 2) > 0.95
    thin = np.asarray(made[0].scales)
    assert (thin[:, 2] < thin[:, :2].min(1)).all()


def test_weights_sum_to_one_and_are_the_templates(model, placed, made):
    p = placed[1]
    weights = np.asarray(made[0].weights)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-5)
    k = 17
    mixed = p.mix[k] @ np.asarray(model.weights)[p.corners[k]]
    np.testing.assert_allclose(weights[k], mixed, atol=1e-6)


def test_undoing_the_pose_gives_the_canonical_surface(placed, model):
    """Points without a shift come home onto the person's own T-posed mesh."""
    surface, p = placed
    photo, to_neutral, _ = carry_home(model, surface, p)
    still = np.linalg.norm(p.shift, axis=1) == 0
    assert still.sum() > 300
    home = (np.asarray(surface.photo)[p.corners] * p.mix[:, :, None]).sum(1)
    off = np.linalg.norm(photo - home, axis=1)[still]
    assert np.percentile(off, 95) < 1e-3
    neutral = (np.asarray(surface.neutral)[p.corners] * p.mix[:, :, None]).sum(1)
    np.testing.assert_allclose(to_neutral, neutral - home, atol=1e-6)


def test_at_rest_the_mouth_is_shut_and_the_smile_stays(model, truth, made):
    avatar = made[0]
    name = model.expression_names.index
    assert avatar.rest.expression[name("jawOpen")] == 0
    assert avatar.rest.expression[name("mouthSmileLeft")] == pytest.approx(0.3)
    np.testing.assert_array_equal(avatar.photo_expression, truth.fit.pose.expression)


def test_landmarks_of_the_lips_are_on_different_lips(model, made):
    """The jaw moves the lower one and not the upper one, although both touch."""
    avatar = made[0]
    jaw = np.asarray(avatar.face_units)[:, model.expression_names.index("jawOpen")]
    upper, lower = (
        int(avatar.landmarks[LANDMARKS.index(f"{lip}_lip_inner")]) for lip in ("upper", "lower")
    )
    assert max(upper, lower) < avatar.n_face
    assert np.linalg.norm(jaw[lower]) > 4 * np.linalg.norm(jaw[upper])
    gap = np.asarray(avatar.template_points)[[upper, lower]]
    assert np.linalg.norm(gap[0] - gap[1]) < 0.012


def test_landmarks_are_drawn_gaussians_near_their_spots(model, made):
    avatar = made[0]
    index = np.asarray(avatar.landmarks)
    assert (np.asarray(avatar.opacities)[index] > 0).all()
    spots = np.asarray(model.vertices)[np.asarray(model.landmarks)]
    off = np.linalg.norm(np.asarray(avatar.template_points)[index] - spots, axis=1)
    assert np.median(off) < 0.02


def test_anchors_are_spread_out_and_visible(made):
    avatar = made[0]
    anchors = np.asarray(avatar.anchors)
    assert len(set(anchors.tolist())) == len(anchors)
    assert (np.asarray(avatar.opacities)[anchors] > 0).all()
    points = np.asarray(avatar.template_points)[anchors]
    apart = np.linalg.norm(points[:, None] - points, axis=2) + 9 * np.eye(len(points))
    assert apart.min() > 0.08


def test_padding_is_invisible_and_regions_are_slices(placed, made):
    avatar, p = made[0], placed[1]
    np.testing.assert_array_equal(np.asarray(avatar.opacities) > 0, p.sizes > 0)
    assert avatar.n_face == (p.region == 0).sum()
    assert avatar.n_hand == (p.region == 1).sum()
    assert len(avatar.face_units) == avatar.n_face
    assert avatar.image_size == SIZE
