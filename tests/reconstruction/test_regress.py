"""Regression and fine-tuning: made-up models on a photo of a known person."""

import dataclasses
import functools
import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.body import JOINTS, REGIONS
from jaxavatar.errors import InputError
from jaxavatar.reconstruction import create
from jaxavatar.reconstruction.finetune import finetune, tune_decoder
from jaxavatar.reconstruction.optimise import psnr_inside, render_photo
from jaxavatar.reconstruction.place import ORDER, Budget
from jaxavatar.reconstruction.query import template_queries
from jaxavatar.reconstruction.regress import Regressor, decode, load_regressor, read_photo
from jaxavatar.reconstruction.start import start
from jaxavatar.reconstruction.transformer import TransformerConfig
from jaxavatar.reconstruction.transformer.config import DinoConfig, VitConfig
from jaxavatar.reconstruction.transformer.params_file import save_params
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.weights.tensor_file import write_tensors

BUDGET = Budget(seen=(600, 150, 1500), unseen=(300, 100, 500))
PLACED = TransformerConfig(
    points=64,
    layers=1,
    width=16,
    heads=2,
    body=VitConfig((80, 48), 16, 0, 16, 1, 2),
    head=DinoConfig(14, 14, 16, 1, 2, 1, 3, (0,)),
    hand=VitConfig((8, 8), 8, 0, 8, 1, 2),
    decoder_width=8,
    placed=True,
    hand_branch=True,
    weight_decoder=True,
)
QUERIES = dataclasses.replace(
    PLACED, points=600, placed=False, body=VitConfig((42, 42), 14, 0, 16, 1, 2)
)
TRUST = 6  # the row of `PlacedDecoder`'s output that says how much of the painted colour to keep

decoded = jax.jit(decode, static_argnums=0)


def regressor(config, change=lambda flat: None):
    """A model of random parameters, with a new model's last layers, which `change` may change."""
    rng = np.random.default_rng(3)
    flat = {
        path: rng.normal(size=shape) / (3 if len(shape) < 2 else math.sqrt(math.prod(shape[:-1])))
        for path, shape in parameter_shapes(config).items()
    }
    flat["weight_decoder/out/kernel"][:] = flat["weight_decoder/out/bias"][:] = 0
    if config.placed:
        flat["decoder/out/kernel"] *= 1e-3
        flat["decoder/out/bias"][:] = 0
    for name, bias in (
        ("offset", 0.0),
        ("scale", -5.0),
        ("rotation", [1.0, 0, 0, 0]),
        ("opacity", math.log(0.1 / 0.9)),
    ):
        if not config.placed:
            flat[f"gaussians/{name}/kernel"][:] = 0
            flat[f"gaussians/{name}/bias"][:] = bias
    change(flat)
    params = {path: jnp.asarray(leaf, jnp.float32) for path, leaf in flat.items()}
    return Regressor(config, {"params": flax.traverse_util.unflatten_dict(params, sep="/")}, {})


def keep_all(flat):
    """Change nothing, colours included, but for the step of unseen points."""
    flat["decoder/out/kernel"][:] = 0
    flat["decoder/out/bias"][TRUST] = 40.0


@pytest.fixture(scope="module", autouse=True)
def known_fit(truth):
    """The fit, which takes longer than all that is tested here, finds the truth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxavatar.reconstruction.start.fit_body", lambda *_: truth.fit)
        yield


@pytest.fixture(scope="module")
def begun(truth, findings):
    return start(truth.photo, findings, BUDGET, 0)


@pytest.fixture(scope="module")
def inputs(truth, findings, begun):
    return read_photo(regressor(PLACED), begun, truth.photo, findings)


@pytest.fixture(scope="module")
def at_queries(truth, findings):
    return start(truth.photo, findings, template_queries(QUERIES.points), 0)


@pytest.fixture(scope="module")
def regressed(truth, findings, at_queries):
    """By a new model that has no placed points."""
    model = regressor(QUERIES)
    return decoded(QUERIES, model.params, read_photo(model, at_queries, truth.photo, findings))


def posed(avatar, transforms):
    """Skin in float64."""
    blend = np.einsum(
        "nj,jab->nab", np.asarray(avatar.weights, float), np.asarray(transforms, float)
    )
    means = np.asarray(avatar.means, float)
    return np.einsum("nab,nb->na", blend[:, :, :3], means) + blend[:, :, 3]


def stepped(inputs):
    """The placed avatar, its unseen points moved away by 1 / (1 + e^3) of their reach."""
    photo = jax.tree.map(lambda leaf: np.asarray(leaf[0]), inputs.photo)
    away = np.where(photo.seen, 0.0, photo.reach / (1 + np.exp(3)))
    means = inputs.avatar.means + away[:, None] * photo.rays
    return dataclasses.replace(inputs.avatar, means=jnp.asarray(means, jnp.float32))


def test_a_model_that_changes_nothing_gives_the_placed_avatar(inputs):
    """A new weight decoder adds a millionth to each weight; nothing moves in the photo's pose."""
    made = decoded(PLACED, regressor(PLACED, keep_all).params, inputs)
    placed = stepped(inputs)
    seen = np.asarray(inputs.photo.seen[0])
    np.testing.assert_array_equal(placed.means[seen], inputs.avatar.means[seen])
    assert 1e-4 < np.abs(placed.means - inputs.avatar.means).max() < 5e-3
    for name, tolerance in (
        ("scales", 1e-9),
        ("colors", 1e-6),
        ("opacities", 1e-5),
        ("weights", 1e-4),
        ("means", 2e-4),
    ):
        actual, expected = getattr(made, name), getattr(placed, name)
        np.testing.assert_allclose(actual, expected, atol=tolerance, err_msg=name)
    before, after = (posed(avatar, inputs.transforms) for avatar in (placed, made))
    np.testing.assert_allclose(after, before, atol=1e-5)
    same = ("quats", "face_units", "template_points", "anchors", "landmarks", "joints", "rest", "K")
    for name in same:
        a, b = (jax.tree.leaves(getattr(avatar, name)) for avatar in (made, placed))
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_without_a_weight_decoder_means_stay(inputs):
    """To two micrometres: the pose is undone as it was done."""
    config = dataclasses.replace(PLACED, weight_decoder=False)
    made = decoded(config, regressor(PLACED, keep_all).params, inputs)
    np.testing.assert_array_equal(made.weights, inputs.avatar.weights)
    np.testing.assert_allclose(made.means, stepped(inputs).means, atol=2e-6)


def test_new_weights_leave_points_where_they_are_in_the_photo(inputs):
    """Within 20 micrometres, float32's rounding at two metres over the blend's stretch."""

    def other_weights(flat):
        keep_all(flat)
        rng = np.random.default_rng(4)
        flat["weight_decoder/out/bias"][:] = rng.normal(0, 0.5, 55)
        flat["weight_decoder/out/kernel"][:] = rng.normal(0, 0.1, (8, 55))

    made = decoded(PLACED, regressor(PLACED, other_weights).params, inputs)
    assert np.abs(made.weights - inputs.avatar.weights).max() > 0.05
    assert np.abs(made.means - inputs.avatar.means).max() > 0.005
    before, after = (posed(avatar, inputs.transforms) for avatar in (stepped(inputs), made))
    np.testing.assert_allclose(after, before, atol=2e-5)


def test_rays_lead_from_the_camera(truth, inputs):
    """A centimetre along its ray, posed, a point has the same pixel and is so much deeper."""
    avatar, rays = inputs.avatar, np.asarray(inputs.photo.rays[0], float)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-6)
    deeper = dataclasses.replace(avatar, means=np.asarray(avatar.means, float) + 0.01 * rays)
    before, after = (posed(each, inputs.transforms) for each in (avatar, deeper))
    np.testing.assert_allclose(truth.project(after), truth.project(before), atol=1e-3)
    assert (after[:, 2] > before[:, 2]).all()


def test_hidden_colours_are_mixed_and_seen_ones_nearly_kept(begun, inputs):
    """By a model whose last layer is small: 12 % grey where the photo sees nothing."""
    made = decoded(PLACED, regressor(PLACED).params, inputs)
    seen, free = begun.placement.seen, np.asarray(inputs.photo.reach[0]) > 0
    before, after = np.asarray(begun.avatar.colors), np.asarray(made.colors)
    assert np.abs(after - before)[seen].max() < 0.01
    trust = 1 / (1 + np.exp(-2))
    expected = trust * before + (1 - trust) * 0.5
    np.testing.assert_allclose(after[~seen & free], expected[~seen & free], atol=0.01)
    np.testing.assert_array_equal(after[~free], before[~free])
    assert (~free).sum() > 10


def test_gaussians_at_query_points_stand_on_the_persons_body(at_queries, regressed):
    """A new model's are on the mesh at rest wherever one joint holds them alone."""
    queries, surface = template_queries(QUERIES.points), at_queries.surface
    names = np.asarray(at_queries.placement.region)
    order = np.concatenate([np.flatnonzero(_regions(at_queries, queries) == k) for k in range(3)])
    assert (np.diff(names) >= 0).all() and len(set(names)) == len(ORDER)
    np.testing.assert_array_equal(at_queries.placement.corners, queries.corners[order])
    assert (names == ORDER.index("face")).sum() == regressed.n_face

    corners, mix = queries.corners[order], queries.mix[order]
    expected = (np.asarray(surface.neutral, float)[corners] * mix[:, :, None]).sum(1)
    units, rest = np.asarray(regressed.face_units, float), np.asarray(regressed.rest.expression)
    expected[: regressed.n_face] += np.einsum("nea,e->na", units, rest)
    alone = queries.weights[order].max(1) > 0.9999
    leg = np.isin(
        queries.weights[order].argmax(1), [JOINTS.index("left_knee"), JOINTS.index("right_knee")]
    )
    assert alone.sum() > 100 and (alone & leg).sum() > 5
    np.testing.assert_allclose(np.asarray(regressed.means)[alone], expected[alone], atol=5e-5)
    np.testing.assert_allclose(regressed.weights, queries.weights[order], atol=1e-4)


def _regions(begun, queries):
    """Return each query point's region, by the names that the body gives its vertices."""
    own = np.asarray(begun.model.region)[queries.corners[:, 0]]
    return np.array([ORDER.index(REGIONS[k]) for k in own])


def test_gaussians_at_query_points_turn_with_the_legs(at_queries, regressed):
    """The canonical pose had them 20 degrees outwards; elsewhere nothing turned."""
    weights = np.asarray(at_queries.avatar.weights)
    for side, sign in (("left", -1), ("right", 1)):
        own = weights[:, JOINTS.index(f"{side}_knee")] > 0.9999
        angle = sign * np.pi / 18
        expected = np.tile([np.cos(angle), 0, 0, np.sin(angle)], (own.sum(), 1))
        np.testing.assert_allclose(np.asarray(regressed.quats)[own], expected, atol=1e-4)
    head = weights[:, JOINTS.index("head")] > 0.9999
    np.testing.assert_allclose(np.asarray(regressed.quats)[head][:, 0], 1, atol=1e-6)
    np.testing.assert_allclose(regressed.scales, np.exp(-5), rtol=1e-5)
    np.testing.assert_allclose(regressed.opacities, 0.1, rtol=1e-4)


def test_load_regressor(tmp_path):
    model, path = regressor(PLACED), tmp_path / "model.safetensors"
    save_params(path, model.params["params"], PLACED, info={"steps": 3})
    loaded = load_regressor(path)
    assert loaded.config == PLACED and loaded.info == {"steps": 3}
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)


def test_load_regressor_names_what_is_wrong(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_regressor(path)
    every = regressor(PLACED).params["params"]
    parts = {k: v for k, v in every.items() if k not in ("body_encoder", "transformer")}
    save_params(path, parts, PLACED)
    with pytest.raises(InputError, match=r"lacks the body_encoder, transformer; add .* --into"):
        load_regressor(path)
    layers = dict(every["decoder"])
    layers.pop("own")
    save_params(path, every | {"decoder": layers}, PLACED)
    with pytest.raises(InputError, match="lacks the decoder; add"):
        load_regressor(path)
    path.write_text("not weights")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_regressor(path)
    path.unlink()
    save_params(path, {}, dataclasses.replace(QUERIES, sh_degree=1))
    with pytest.raises(InputError, match="spherical harmonics"):
        load_regressor(path)
    write_tensors(path, {"a": np.zeros(3, np.float32)}, {"format": "another"}, np.float32)
    with pytest.raises(InputError, match="does not hold parameters of this transformer"):
        load_regressor(path)


def psnr(avatar, target):
    render = jax.jit(render_photo)
    return float(psnr_inside(render(avatar, target, jnp.ones(3)), target))


def test_tuning_changes_the_decoder_only_and_helps(begun, inputs):
    model = regressor(PLACED)
    tuned = tune_decoder(PLACED, model.params, inputs, begun.target)
    for name, tree in model.params["params"].items():
        after = jax.tree.leaves(tuned["params"][name])
        same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(tree), after, strict=True)]
        assert not any(same) if name == "decoder" else all(same), name
    before, after = (
        psnr(decoded(PLACED, params, inputs), begun.target) for params in (model.params, tuned)
    )
    assert after > before + 0.02


def test_finetuning_gets_closer_to_the_photo(begun, inputs):
    told = []
    done = finetune(regressor(PLACED), inputs, begun.target, 15, lambda *news: told.append(news))
    assert [news[:2] for news in told] == [(10, 20), (20, 20)]
    assert psnr(done, begun.target) > psnr(begun.avatar, begun.target) + 1
    plain = functools.partial(finetune, steps=0, progress=lambda *_: None)
    model = regressor(PLACED)
    kept = plain(model, inputs, begun.target, decoder=False)
    regressed = decoded(PLACED, model.params, inputs)
    np.testing.assert_allclose(kept.colors, regressed.colors, atol=1e-6)
    np.testing.assert_array_equal(kept.weights, regressed.weights)


@pytest.mark.parametrize("method", ["optimise", "regress", "regress+finetune"])
def test_every_method_makes_an_avatar_of_the_same_sizes(truth, findings, begun, method):
    news = []
    made = create.create_avatar(
        truth.photo,
        findings,
        method=method,
        regressor=None if method == "optimise" else regressor(PLACED),
        steps=10,
        budget=BUDGET,
        progress=lambda *told: news.append(told[:2]),
    )
    shapes = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), avatar)
        for avatar in (made.avatar, begun.avatar)
    ]
    assert shapes[0] == shapes[1]  # static sizes included: they are part of the tree
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(made.avatar))
    assert made.report["method"] == method
    assert made.report["seconds"] >= made.report["seconds_after_placing"] > 0
    assert made.report["psnr_inside_matte"] == pytest.approx(
        psnr(made.avatar, made.target), abs=1e-3
    )
    assert news == ([] if method == "regress" else [(10, 10)])
