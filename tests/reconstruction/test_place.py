"""Gaussians are as many as ordered, where the photo sees the person, and nowhere else."""

import numpy as np
import pytest
from scipy import ndimage

from jaxavatar.body import REGIONS
from jaxavatar.reconstruction.place import Budget, place, place_everywhere
from jaxavatar.reconstruction.raster import rasterise

SEEN, UNSEEN = (900, 200, 1500), (500, 150, 800)
FACE, HAND, BODY = range(3)


@pytest.fixture(scope="module")
def points(placed):
    """Posed centres, world metres."""
    surface, p = placed
    return (np.asarray(surface.posed, float)[p.corners] * p.mix[:, :, None]).sum(1) + p.shift


@pytest.fixture(scope="module")
def drawn(placed):
    return placed[1].sizes > 0


def test_budgets_are_met_region_by_region(placed, drawn):
    p = placed[1]
    expected = np.repeat([FACE, HAND, BODY], np.add(SEEN, UNSEEN))
    np.testing.assert_array_equal(p.region, expected)
    for k in (FACE, HAND, BODY):
        own = p.region == k
        assert p.seen[own].sum() <= SEEN[k]
        assert (own & drawn & p.seen).sum() > 0.7 * SEEN[k]
        assert (own & drawn & ~p.seen).sum() > 0.7 * UNSEEN[k]
    assert all(len(column) == sum(SEEN) + sum(UNSEEN) for column in vars(p).values())


def test_regions_are_the_templates(model, placed, drawn):
    names = np.array(["face", "hand", "body"])[placed[1].region]
    owner = np.array(REGIONS)[np.asarray(model.region)[placed[1].corners[:, 0]]]
    np.testing.assert_array_equal(names[drawn], owner[drawn])


def test_points_lie_on_triangles(model, placed):
    p = placed[1]
    np.testing.assert_allclose(p.mix.sum(1), 1.0, atol=1e-6)
    assert p.mix.min() > -1e-6
    triangles = {tuple(sorted(f)) for f in np.asarray(model.faces).tolist()}
    real = p.sizes > 0
    assert {tuple(sorted(c)) for c in p.corners[real].tolist()} <= triangles


def test_seen_points_project_to_their_pixels_inside_the_matte(truth, placed, points, drawn):
    p = placed[1]
    pixel = p.pixel[p.seen]
    np.testing.assert_allclose(truth.project(points[p.seen]), pixel, atol=1e-6)
    x, y = pixel.astype(int).T
    assert (truth.matte[y, x] > 0.5).all()
    assert np.isnan(p.pixel[~p.seen & drawn]).all()


def test_seen_points_lie_near_the_surface_they_were_seen_on(placed):
    """Half of them within 4 mm, two thirds of a pixel; only at the outline more than 3 cm."""
    off = np.linalg.norm(placed[1].shift[placed[1].seen], axis=1)
    assert np.median(off) < 0.004
    assert np.percentile(off, 95) < 0.03


def test_seen_points_cover_the_matte(truth, placed):
    """No pixel well inside is farther from a point of its own than twice their spacing."""
    p = placed[1]
    x, y = p.pixel[p.seen].astype(int).T
    taken = np.zeros(truth.matte.shape, bool)
    taken[y, x] = True
    inside = np.asarray(ndimage.binary_erosion(truth.matte > 0.5)).astype(bool)
    far = np.asarray(ndimage.distance_transform_edt(~taken))[inside]
    assert far.max() < 2 * np.sqrt((truth.matte > 0.5).sum() / SEEN[BODY])


def test_unseen_points_do_not_stick_out_of_the_matte(truth, placed, points, drawn):
    """They may miss it by a pixel: what is pulled inside lands on the border's pixels."""
    own = ~placed[1].seen & drawn
    x, y = truth.project(points[own]).T
    height, width = truth.matte.shape
    framed = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    assert framed.sum() > 100
    outside = np.asarray(ndimage.distance_transform_edt(truth.matte <= 0.5))
    assert outside[y[framed].astype(int), x[framed].astype(int)].max() <= 1.5


def test_what_the_photo_shows_is_not_placed_twice(model, truth, placed, points, drawn):
    """Hardly an unseen point of the body faces the camera on the front surface.

    A few at outlines do: their pixel's centre shows what is behind.
    """
    p = placed[1]
    own = ~p.seen & drawn & (p.region == BODY)
    owner, mix = rasterise(truth.pixels, truth.posed[:, 2], np.asarray(model.faces), (192, 160))
    front = (truth.posed[np.asarray(model.faces)[owner], 2] * mix).sum(-1)
    x, y = truth.project(points).astype(int).T
    framed = own & (x >= 0) & (x < 160) & (y >= 0) & (y < 192)
    at = (y[framed], x[framed])
    view = points[framed] / np.linalg.norm(points[framed], axis=1, keepdims=True)
    facing = -(p.normals[framed] * view).sum(1) > 0.8
    in_front = points[framed, 2] < front[at] + 5e-4
    shown = facing & in_front & (owner[at] >= 0) & (truth.matte[at] > 0.5)
    assert framed.sum() > 100
    assert shown.sum() < 0.01 * framed.sum()


def test_normals_and_sizes(placed, drawn):
    p = placed[1]
    np.testing.assert_allclose(np.linalg.norm(p.normals, axis=1), 1.0, atol=1e-6)
    assert (p.normals[p.seen, 2] <= 0).all()  # the camera looks along +z
    assert p.slant.min() >= 1
    assert p.sizes[drawn].max() < 0.03
    assert p.sizes.min() >= 0


def test_the_choice_follows_the_generator(model, truth, placed):
    surface, first = placed
    budget = Budget(SEEN, UNSEEN)
    again, other = (
        place(model, surface, truth.K, truth.matte, budget, np.random.default_rng(s))
        for s in (0, 1)
    )
    for name, column in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), column)
    assert (other.corners != first.corners).any(1).mean() > 0.5


def test_a_region_out_of_the_picture_is_padding(model, truth, placed):
    """Without hands in the matte their seen budget stays invisible, and the counts hold."""
    surface, p = placed
    hands = p.pixel[p.seen & (p.region == HAND)]
    matte = truth.matte.copy()
    matte[int(hands[:, 1].min()) - 1 :] = 0
    cut = place(model, surface, truth.K, matte, Budget(SEEN, UNSEEN), np.random.default_rng(0))
    own = np.flatnonzero(cut.region == HAND)[: SEEN[HAND]]
    assert not cut.seen[own].any()
    assert not cut.sizes[own].any()
    assert len(cut.sizes) == len(p.sizes)


def test_without_a_photo_the_whole_surface_is_covered(model, placed):
    """As much left as right, back as front, and the sizes close the surface."""
    surface = placed[0]
    p = place_everywhere(model, surface, (600, 300, 1500), np.random.default_rng(0))
    np.testing.assert_array_equal(p.region, np.repeat([FACE, HAND, BODY], (600, 300, 1500)))
    assert not p.seen.any()
    assert (p.sizes > 0).all()
    home = (np.asarray(model.vertices)[p.corners] * p.mix[:, :, None]).sum(1)
    for k in (FACE, HAND, BODY):
        assert abs((home[p.region == k, 0] > 0).mean() - 0.5) < 0.08
    assert 0.35 < (p.normals[p.region == BODY, 2] > 0).mean() < 0.65
    assert not p.shift.any()
