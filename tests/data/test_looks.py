"""Looks of made-up people: hair on heads, cloth on bodies, nothing of it on faces and hands."""

import dataclasses

import numpy as np
import pytest

from jaxavatar.body import JOINTS, VERTEX_GROUPS, load_template
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.data import looks

SEEDS = range(12)
NOSE, FOREHEAD, EAR = 4, 10, 234
CHEEKS = (50, 280)


@pytest.fixture(scope="module")
def model():
    return load_template()


@pytest.fixture(scope="module")
def at(model):
    """Every vertex."""
    corners = np.arange(len(model.vertices))[:, None].repeat(3, 1)
    return looks.spots(model, corners, np.tile([0.2, 0.3, 0.5], (len(corners), 1)))


@pytest.fixture(scope="module")
def people():
    return [looks.random_look(np.random.default_rng(seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def owner(model):
    """The joint that each vertex follows most."""
    return np.array(JOINTS)[np.asarray(model.weights).argmax(1)]


@pytest.fixture(scope="module")
def marks(model):
    """Where face landmarks are on the template."""
    corners, mix = load_face_landmarks()
    return (np.asarray(model.vertices, float)[corners] * mix[:, :, None]).sum(1)


def following(owner, *ends):
    return np.array([name.endswith(ends) for name in owner])


def fields(look):
    return [np.asarray(value) for value in dataclasses.asdict(look).values()]


def test_a_seed_is_a_look(model, at, people):
    again = looks.random_look(np.random.default_rng(0))
    for a, b in zip(fields(again), fields(people[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    for function in (looks.colors, looks.standoff, looks.hair_share):
        np.testing.assert_array_equal(function(again, model, at), function(people[0], model, at))


def test_seeds_differ(model, at, people):
    colors = [looks.colors(look, model, at) for look in people[:4]]
    for i in range(4):
        for j in range(i):
            assert np.abs(colors[i] - colors[j]).mean() > 0.03
    for name in ("hair", "skin", "top", "trousers", "volume", "sleeve", "pattern"):
        values = {np.asarray(getattr(look, name)).tobytes() for look in people}
        assert len(values) > 2, name


def test_spots_are_on_the_template(model, at, owner):
    np.testing.assert_allclose(at.points, model.vertices, atol=1e-6)
    np.testing.assert_array_equal(at.group, model.vertex_group)
    for share in (at.bare, at.hand, at.leg):
        assert share.min() > -1e-6 and share.max() < 1 + 1e-6
    assert (at.bare[owner == "head"] > 0.4).all() and at.bare[owner == "head"].max() > 0.99
    finger = np.array([name[-1] in "123" and "spine" not in name for name in owner])
    wrist = following(owner, "wrist")
    assert (at.hand[finger] > 0.99).all() and at.hand[~finger & ~wrist].max() < 0.6
    knee = following(owner, "knee")
    assert (at.leg[knee] > 0.99).all() and (at.leg[owner == "head"] == 0).all()


def test_spots_mix_their_corners(model):
    rng = np.random.default_rng(0)
    faces = np.asarray(model.faces)[rng.choice(len(model.faces), 20)]
    mix = rng.dirichlet(np.ones(3), size=20)
    made = looks.spots(model, faces, mix)
    for n in range(20):
        one = [looks.spots(model, np.full((1, 3), v), np.full((1, 3), 1 / 3)) for v in faces[n]]
        for name in ("points", "bare", "hand", "leg"):
            expected = sum(m * getattr(o, name)[0] for m, o in zip(mix[n], one, strict=True))
            np.testing.assert_allclose(getattr(made, name)[n], expected, atol=1e-9)


def test_ranges(model, at, people):
    for look in people:
        colors, off = looks.colors(look, model, at), looks.standoff(look, model, at)
        hair = looks.hair_share(look, model, at)
        assert colors.shape == (len(at.points), 3) and off.shape == hair.shape == (len(colors),)
        assert colors.min() >= 0 and colors.max() <= 1
        assert hair.min() >= 0 and hair.max() <= 1
        assert off.min() >= 0 and off.max() < 0.2
        assert all(np.isfinite(values).all() for values in (colors, off, hair))


def test_hair_is_on_the_head(model, at, people, owner, marks):
    """At the back and on top, unless the hairline is beyond; never where no hair grows."""
    legs = following(owner, "hip", "knee", "ankle", "foot")
    hands = at.hand > 0.5
    centre = [np.linalg.norm(at.points - marks[k], axis=1) < 0.015 for k in (NOSE, *CHEEKS)]
    face = np.any(centre, axis=0) & (at.group == 0)
    assert legs.sum() > 100 and hands.sum() > 1000 and face.sum() > 50
    behind = marks[FOREHEAD] + [0, 0.01, -0.16]
    back = (np.linalg.norm(at.points - behind, axis=1) < 0.05) & (at.bare > 0.99)
    assert back.sum() >= 5
    for look in people:
        hair = looks.hair_share(look, model, at)
        assert not hair[legs].any() and not hair[hands].any() and not hair[face].any()
        assert not hair[at.group > 0].any()  # eyes, teeth, tongue
        if look.hairline < 0.1:
            assert hair[back].min() > 0.9


def test_long_hair_hangs_behind_the_ears(model, at, people, marks):
    look = dataclasses.replace(people[0], length=1.35, hairline=0.0)
    short = dataclasses.replace(look, length=1.65)
    more = looks.hair_share(look, model, at) - looks.hair_share(short, model, at)
    assert (more >= 0).all() and (more > 0.5).sum() > 100
    assert at.points[more > 0, 1].min() > 1.35
    assert at.points[more > 0, 2].max() < marks[EAR, 2] + 0.01


def test_clothes_stand_off_and_skin_does_not(model, at, people, owner):
    chest = (owner == "spine3") & (np.abs(at.points[:, 0]) < 0.1) & (at.points[:, 1] < 1.38)
    legs = following(owner, "knee", "ankle")
    assert chest.sum() > 50
    for look in people:
        off = looks.standoff(look, model, at)
        assert off[chest].min() >= 0.003 - 1e-9
        assert off[at.hand > 0.9].max() < 1e-9 and off[legs].max() < 1e-9
    tight, wide = (
        looks.standoff(dataclasses.replace(people[0], loose=loose), model, at)
        for loose in (0.0, 0.02)
    )
    assert (wide - tight)[chest].min() > 0.001 and (wide >= tight - 1e-12).all()


def test_a_bald_bare_person_is_of_skin(model, at, people, owner):
    """No hair, no sleeves below the elbow, bare legs: there the skin's colour, within its grain."""
    look = dataclasses.replace(
        people[0], hairline=0.5, length=1.65, knot=0.0, sleeve=0.2, hem=1.0, trousers=people[0].skin
    )
    assert not looks.hair_share(look, model, at).any()
    colors = looks.colors(look, model, at)
    for part in (at.hand > 0.9, following(owner, "knee"), following(owner, "elbow")):
        np.testing.assert_allclose(colors[part].mean(0), look.skin, atol=0.06)
        assert np.abs(colors[part] / look.skin - 1).max() < 0.3


def test_parts_have_their_own_colours(model, at, people):
    for look in people:
        colors = looks.colors(look, model, at)
        teeth = at.group == VERTEX_GROUPS.index("upper_teeth")
        np.testing.assert_allclose(colors[teeth], np.tile([0.9, 0.88, 0.82], (teeth.sum(), 1)))
        shoes = at.points[:, 1] < 0.08
        np.testing.assert_allclose(colors[shoes], np.tile(look.shoes, (shoes.sum(), 1)), atol=1e-9)
