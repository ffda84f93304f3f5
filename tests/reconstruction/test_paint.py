"""Colours come from the person's own pixels, and from like surroundings where nobody saw."""

import numpy as np
import pytest
from scipy import ndimage

from jaxavatar.body import JOINTS, VERTEX_GROUPS
from jaxavatar.reconstruction.assemble import carry_home
from jaxavatar.reconstruction.paint import bleed_free, paint

TONE = np.array([0.6, 0.45, 0.35])


@pytest.fixture(scope="module")
def canonical(model, placed):
    return carry_home(model, *placed)[0]


@pytest.fixture(scope="module")
def solid(truth):
    """Pixels well inside the matte."""
    return ndimage.binary_erosion(truth.matte > 0.9, iterations=2)


def test_pixels_near_the_border_come_from_the_nearest_well_inside(truth, solid):
    """Each pixel of the test picture holds its own place, so the source can be read off."""
    y, x = np.mgrid[: truth.matte.shape[0], : truth.matte.shape[1]]
    place = np.stack([x, y, 0 * x], -1)
    source = bleed_free(place, truth.matte)
    assert solid[source[..., 1], source[..., 0]].all()
    np.testing.assert_array_equal(source[solid], place[solid])
    inside = np.argwhere(solid)[:, ::-1]
    for row, column in ((5, 5), (100, 2), (60, 150), (40, 70)):
        expected = np.linalg.norm(inside - [column, row], axis=1).min()
        moved = np.linalg.norm(source[row, column, :2] - [column, row])
        assert moved == pytest.approx(expected)


def test_seen_colours_are_the_photos(model, truth, placed, canonical, solid):
    """On a ramp, bilinear interpolation is exact."""
    height, width = truth.matte.shape
    y, x = np.mgrid[:height, :width] + 0.5
    ramp = np.stack([x / width, y / height, 0.5 + 0 * x], -1)
    p = placed[1]
    colors = paint(model, p, canonical, ramp, truth.matte)
    ix, iy = p.pixel[p.seen].astype(int).T
    deep = np.asarray(ndimage.binary_erosion(solid, np.ones((3, 3)))).astype(bool)[iy, ix]
    expected = np.concatenate([p.pixel[p.seen] / [width, height], np.full((len(ix), 1), 0.5)], 1)
    assert deep.sum() > 1000
    np.testing.assert_allclose(colors[p.seen][deep], expected[deep], atol=1e-5)


def test_the_background_bleeds_into_nothing(model, truth, placed, canonical):
    """A person of one colour before green: all skin has that colour, seen or not."""
    p = placed[1]
    inside = truth.matte[..., None]
    photo = TONE * inside + np.array([0.0, 1.0, 0.0]) * (1 - inside)
    colors = paint(model, p, canonical, photo, truth.matte)
    body = np.asarray(model.vertex_group)[p.corners[:, 0]] == 0
    own = (body & (p.region != 0)) | p.seen
    assert np.abs(colors[own & (p.sizes > 0)] - TONE).max() < 0.02
    assert colors.min() >= 0
    assert colors.max() <= 1


def test_teeth_are_brighter_than_the_mouth_around_them(model, truth, placed, canonical):
    p = placed[1]
    photo = np.broadcast_to(TONE, (*truth.matte.shape, 3))
    colors = paint(model, p, canonical, photo, truth.matte)
    group = np.asarray(model.vertex_group)[p.corners[:, 0]]
    teeth = ~p.seen & np.isin(group, [3, 4]) & (p.sizes > 0)
    tongue = ~p.seen & (group == VERTEX_GROUPS.index("tongue")) & (p.sizes > 0)
    assert teeth.sum() > 5
    assert tongue.sum() > 2
    assert colors[teeth].mean() > TONE.mean()
    assert (colors[tongue][:, 0] > 1.5 * colors[tongue][:, 1]).all()
    # The lining of the mouth is skin of the face that the photo does not show, and dark.
    lining = ~p.seen & (group == 0) & (p.region == 0)
    assert (colors[lining].mean(1) < 0.5 * TONE.mean()).sum() > 5


def test_hands_nobody_saw_take_the_faces_skin(model, truth, placed, canonical):
    """The shirt is blue, the head is not; the hands are taken for unseen."""
    p = placed[1]
    owner = np.asarray(model.weights)[p.corners].mean(1).argmax(1)
    head = np.isin(owner, [JOINTS.index(n) for n in ("neck", "head", "jaw")])
    chin = int(p.pixel[p.seen & head, 1].max()) + 2
    photo = np.empty((*truth.matte.shape, 3))
    photo[:chin], photo[chin:] = TONE, [0.1, 0.2, 0.8]
    hand = p.region == 1
    blind = type(p)(**{**vars(p), "seen": p.seen & ~hand})
    colors = paint(model, blind, canonical, photo, truth.matte)
    fingers = np.isin(
        owner, [i for i, n in enumerate(JOINTS) if n[-1] in "123" and "spine" not in n]
    )
    np.testing.assert_allclose(np.median(colors[hand & fingers], axis=0), TONE, atol=0.02)
    back = ~p.seen & (owner == JOINTS.index("spine2"))
    np.testing.assert_allclose(np.median(colors[back], axis=0), [0.1, 0.2, 0.8], atol=0.02)
