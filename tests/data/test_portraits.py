"""Portraits of made-up people, and what the transformer learns from them."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxavatar.body import JOINTS, load_template
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.data import looks, portrait_samples, portraits
from jaxavatar.reconstruction.crops import make_crops
from jaxavatar.reconstruction.place import place
from jaxavatar.reconstruction.transformer.config import DinoConfig, TransformerConfig, VitConfig

SEED = 3
SIDE = portraits.SIDE
CONFIG = TransformerConfig(
    points=64,
    body=VitConfig((80, 48), 16, 0, 8, 1, 2),
    head=DinoConfig(28, 14, 8, 1, 2, 1, 3, (0,)),
    hand=VitConfig((16, 16), 8, 0, 8, 1, 2),
    placed=True,
    hand_branch=True,
    weight_decoder=True,
)


@pytest.fixture(scope="module")
def model():
    return load_template()


@pytest.fixture(scope="module")
def several():
    return [portraits.random_portrait(seed) for seed in (SEED, 4, 5)]


@pytest.fixture(scope="module")
def raw():
    """A sample before it is made small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portrait_samples, "_compact", lambda sample: sample)
        return jax.tree.map(np.asarray, portrait_samples.portrait_sample(CONFIG, SEED))


@pytest.fixture(scope="module")
def sample():
    return portrait_samples.portrait_sample(CONFIG, SEED)


@pytest.fixture(scope="module")
def placement(model, several):
    """Where the sample's points are, placed once more."""
    person = several[0].person
    K = np.asarray(person.fit.K, float)
    rng = np.random.default_rng([SEED, 3])
    return place(model, person.surface, K, several[0].findings.matte, portrait_samples.BUDGET, rng)


def project(portrait, points):
    K = np.asarray(portrait.person.fit.K, float)
    return points[:, :2] / points[:, 2:] * K[0, 0] + K[:2, 2]


def at(image, pixels):
    """Values of an image at whole pixels; all must be inside."""
    x, y = pixels.astype(int).T
    return image[y, x]


def test_a_seed_is_a_portrait(several):
    again = portraits.random_portrait(SEED)
    np.testing.assert_array_equal(again.image, several[0].image)
    found = (jax.tree.leaves(dataclasses.astuple(p.findings)) for p in (again, several[0]))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(again.person.clothed, several[0].person.clothed)


def test_seeds_differ(several):
    for i in range(3):
        for j in range(i):
            assert np.abs(several[i].image - several[j].image).mean() > 0.05
            a, b = (several[k].findings.face.points for k in (i, j))
            assert np.abs(a - b).max() > 3


def test_pictures_and_mattes_are_in_range(several):
    for portrait in several:
        assert portrait.image.shape == (SIDE, SIDE, 3)
        assert portrait.findings.matte.shape == (SIDE, SIDE)
        for values in (portrait.image, portrait.findings.matte):
            assert values.min() >= 0 and values.max() <= 1 and np.isfinite(values).all()


def test_the_matte_is_nearly_the_persons_outline(several):
    """On the slightly wrong body that a fit would find."""
    for portrait in several:
        K = np.asarray(portrait.person.fit.K)
        _, alpha = portraits.shoot(portrait.person, np.eye(4), K, SIDE)
        matte = portrait.findings.matte
        assert np.abs(matte - alpha).mean() < 0.1
        inside, found = alpha > 0.5, matte > 0.5
        assert (inside & found).sum() / (inside | found).sum() > 0.9
        assert 0.05 < found.mean() < 0.8


def test_the_head_is_in_the_picture(model, several):
    head = np.asarray(model.weights)[:, JOINTS.index("head")] > 0.9
    for portrait in several:
        posed = np.asarray(portrait.person.surface.posed, float)
        assert posed[:, 2].min() > 0.5
        pixels = project(portrait, posed[head])
        assert pixels.min() > 0 and pixels.max() < SIDE
        assert pixels[:, 1].mean() < 0.4 * SIDE  # near the top
        assert (at(portrait.findings.matte, pixels) > 0.5).mean() > 0.97


def test_landmarks_are_on_the_person(several):
    """In the matte; the wrong body's head is elsewhere by 4 cm at most, but of the same shape."""
    corners, mix = load_face_landmarks()
    for portrait in several:
        posed = np.asarray(portrait.person.surface.posed, float)
        points = (posed[corners] * mix[:, :, None]).sum(1)
        face = portrait.findings.face.points
        assert face.shape == (478, 2)
        off = face - project(portrait, points)
        metre = float(portrait.person.fit.K[0, 0]) / points[:, 2].mean()
        assert np.linalg.norm(off.mean(0)) < 0.04 * metre
        assert np.linalg.norm(off - off.mean(0), axis=1).mean() < 2
        assert (at(portrait.findings.matte, face) > 0.5).mean() > 0.99
        for hand in (portrait.findings.left_hand, portrait.findings.right_hand):
            if hand is not None:
                assert hand.points.shape == (21, 2)
                assert ((hand.points > 0) & (hand.points < SIDE)).all(1).mean() > 0.75


def test_cloth_and_hair_stand_off_the_body(model, several):
    """What is seen lies outside the naked body, by what the look says."""
    for portrait in several:
        person = portrait.person
        every = np.arange(len(person.clothed))[:, None].repeat(3, 1)
        spots = looks.spots(model, every, np.tile([1.0, 0, 0], (len(every), 1)))
        away = np.linalg.norm(person.clothed - np.asarray(person.surface.neutral), axis=1)
        np.testing.assert_allclose(away, looks.standoff(person.look, model, spots), atol=1e-6)
        assert away.max() > 0.003


def test_light(model, several):
    """Undirected light shows the colours themselves; what it faces is brighter."""
    look = several[0].person.look
    corners = np.asarray(model.faces)[::60]
    spots = looks.spots(model, corners, np.full((len(corners), 3), 1 / 3))
    normals = np.tile([0, 0, -1.0], (len(corners), 1))
    plain = looks.colors(look, model, spots)
    none = np.array([0, 0, -1.0, 0.0])
    np.testing.assert_allclose(portraits.lit_colors(look, spots, none, normals), plain)
    half = np.array([0, 0, -1.0, 0.5])
    front = portraits.lit_colors(look, spots, half, normals)
    np.testing.assert_allclose(front, np.minimum(1.3 * plain, 1), atol=1e-12)
    np.testing.assert_allclose(portraits.lit_colors(look, spots, half, -normals), 0.5 * plain)


def test_a_seed_is_a_sample_and_compact_is_exact_enough(raw, sample):
    """Pictures to half a level, halves to 2^-11, all else exactly; a quarter of the memory."""
    again = portrait_samples._compact(raw)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(sample), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    wide = portrait_samples.expand(sample)
    paths = jax.tree_util.tree_flatten_with_path(sample)[0]
    assert {leaf.dtype.name for _, leaf in paths} == {
        "uint8",
        "float16",
        "float32",
        "int32",
        "bool",
    }
    for (path, small), a, b in zip(paths, jax.tree.leaves(wide), jax.tree.leaves(raw), strict=True):
        name = path[-1].name
        assert np.isfinite(a).all(), name
        if small.dtype == np.uint8:
            np.testing.assert_allclose(a, b, atol=0.5 / 255 + 1e-6, err_msg=name)
        elif small.dtype == np.float16:
            np.testing.assert_allclose(a, b, rtol=2**-11, atol=2**-24, err_msg=name)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-7, err_msg=name)


def test_what_is_known_of_a_sample(sample, placement):
    """Teeth, eyes and tongue stay as they are; the truth of what is seen is the photo."""
    photo, truth = sample.photo, sample.truth
    np.testing.assert_array_equal(photo.seen, placement.seen)
    np.testing.assert_array_equal(truth.color_known, photo.reach > 0)
    np.testing.assert_array_equal(truth.shift_known, photo.reach > 0)
    assert photo.reach[photo.seen].min() > 0
    np.testing.assert_array_equal(truth.colors[photo.seen], photo.colors[photo.seen])
    hidden = truth.color_known & ~photo.seen
    assert hidden.sum() > 3000 and (~truth.color_known).sum() > 20
    assert np.abs(truth.colors - photo.colors)[hidden].mean() > 0.01
    assert truth.view_known.all()
    np.testing.assert_allclose(truth.weights.sum(1, dtype=float), 1, atol=5e-3)
    np.testing.assert_allclose(photo.shares.sum(1, dtype=float), 1, atol=1e-3)
    assert photo.nearest.min() >= 0 and photo.nearest.max() < CONFIG.points


def test_hair_follows_the_head(model, several, sample, placement):
    spots = looks.spots(model, placement.corners, placement.mix)
    hair = looks.hair_share(several[0].person.look, model, spots) > 0.999
    assert hair.sum() > 100
    np.testing.assert_allclose(sample.truth.weights[hair][:, JOINTS.index("head")], 1, atol=2e-3)
    same = looks.hair_share(several[0].person.look, model, spots) == 0
    np.testing.assert_array_equal(sample.truth.weights[same], sample.weights[same])


def test_true_shifts_lead_to_the_clothed_surface(several, raw, placement):
    moved = raw.means.astype(float) + raw.truth.shift
    wanted = (several[0].person.clothed[placement.corners] * placement.mix[:, :, None]).sum(1)
    np.testing.assert_allclose(moved, wanted, atol=1e-6)
    assert np.linalg.norm(raw.truth.shift, axis=1).max() > 0.005


def test_the_way_along_a_ray_keeps_the_pixel(several, raw):
    """Skinned in float64, with the camera that placed the points."""
    blend = np.einsum("nj,jab->nab", raw.weights.astype(float), raw.truth.transforms.astype(float))
    rays = raw.photo.rays.astype(float)
    way = (raw.truth.shift * rays).sum(1, keepdims=True) * rays
    means = raw.means.astype(float)
    before, after = (
        np.einsum("nab,nb->na", blend[:, :, :3], points) + blend[:, :, 3]
        for points in (means, means + way)
    )
    pixels = [project(several[0], points) for points in (before, after)]
    np.testing.assert_allclose(pixels[1], pixels[0], atol=0.02)
    assert np.linalg.norm(after - before, axis=1).max() > 0.005


def test_views_show_the_person_from_elsewhere(raw, sample):
    views = raw.truth.views
    assert views.shape == (4, portrait_samples.VIEW_SIDE, portrait_samples.VIEW_SIDE, 4)
    assert (views[..., :3] <= views[..., 3:] + 1e-5).all()
    assert (views[..., 3] > 0.5).mean((1, 2)).min() > 0.03
    eyes = np.linalg.inv(raw.truth.viewmats.astype(float))
    np.testing.assert_allclose(eyes[0], np.eye(4), atol=1e-9)  # the photo's camera
    assert eyes[1, 2, 3] > 1  # behind: the photo's camera looks along z
    np.testing.assert_allclose(eyes[:, 1, 3], 0, atol=1e-9)


def test_turning_a_camera():
    """It keeps its distance and its view of the middle; half a turn is behind."""
    centre = np.array([0.2, -0.3, 2.5])
    np.testing.assert_allclose(portrait_samples.turned(centre, 0.0), np.eye(4), atol=1e-12)
    for angle in (0.4, -2.0, np.pi):
        view = portrait_samples.turned(centre, angle)
        np.testing.assert_allclose(view[:3, :3] @ view[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(view[:3, :3]) == pytest.approx(1)
        np.testing.assert_allclose(view[:3, :3] @ centre + view[:3, 3], centre, atol=1e-12)
    behind = np.linalg.inv(portrait_samples.turned(centre, np.pi))[:3, 3]
    np.testing.assert_allclose(behind, 2 * centre * [1, 0, 1], atol=1e-12)


def test_crops_are_of_the_portrait(several, raw):
    crops = make_crops(CONFIG, several[0].image, several[0].findings)
    for a, b in zip(jax.tree.leaves(crops), jax.tree.leaves(raw.crops), strict=True):
        np.testing.assert_array_equal(a[0], b)


def test_samples_come_back_from_disk(tmp_path, sample):
    both = portrait_samples.stack([sample, sample])
    assert both.means.shape == (2, *sample.means.shape)
    portrait_samples.save_samples(tmp_path / "some.npz", both)
    loaded = portrait_samples.load_samples(tmp_path / "some.npz", sample)
    assert jax.tree.structure(loaded) == jax.tree.structure(both)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(both), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["some.npz"]
