"""A training step of the transformer: it learns, repeats exactly, and hides what it should."""

import contextlib
import dataclasses
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxavatar.body import PARENTS, local_transforms, skinning_transforms
from jaxavatar.data.portrait_samples import VIEW_SIDE, Sample, Truth
from jaxavatar.reconstruction.transformer import Changes, Crops, PhotoPoints
from jaxavatar.reconstruction.transformer.config import DinoConfig, TransformerConfig, VitConfig
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.training import reconstructor
from jaxavatar.training.reconstructor import ReconstructionLoss
from jaxavatar.training.sharding import compile_step, make_mesh
from jaxavatar.training.state import TrainState

BATCH, COUNT = 2, 80
CONFIG = TransformerConfig(
    points=24,
    layers=1,
    width=16,
    heads=2,
    body=VitConfig((16, 32), 16, 0, 16, 1, 2),
    head=DinoConfig(14, 14, 16, 1, 2, 1, 3, (0,)),
    decoder_width=8,
    placed=True,
    weight_decoder=True,
)
LOSS = ReconstructionLoss()
OPTIMISER = optax.adam(1e-2, b1=0.9)


def one_sample(toys, seed):
    """A toy avatar; its unseen points were painted wrongly and stand too near by 1 to 5 cm."""
    rng = np.random.default_rng(seed)
    avatar = toys.avatar(COUNT, 30, 20, seed=seed)
    local = local_transforms(avatar.rest.rotations, avatar.rest.translation)

    def array(values):
        return jnp.asarray(values, jnp.float32)

    seen = np.arange(COUNT) % 3 > 0
    reach = np.where(seen, 0.04, np.where(np.arange(COUNT) % 9 > 0, 0.08, 0.0))
    rays = rng.normal([0, 0, 1.0], 0.2, (COUNT, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    way = np.where(seen, 0.0, rng.uniform(0.01, 0.05, COUNT))
    true_colors = np.asarray(avatar.colors)
    colors = np.where(seen[:, None], true_colors, rng.uniform(size=(COUNT, 3)))
    photo = PhotoPoints(
        points=array(avatar.template_points),
        colors=array(colors),
        seen=jnp.asarray(seen),
        shifts=array(rng.normal(0, 0.01, (COUNT, 3)) * seen[:, None]),
        rays=array(rays),
        reach=array(reach),
        nearest=jnp.asarray(rng.integers(0, CONFIG.points, (COUNT, 3)), jnp.int32),
        shares=array(rng.dirichlet(np.ones(3), size=COUNT)),
    )
    crops = Crops(
        array(rng.uniform(size=(16, 32, 3))),
        array(rng.uniform(size=(14, 14, 3))),
        array(rng.uniform(size=(2, 8, 8, 3))),
        jnp.array([True, False]),
    )
    truth = Truth(
        colors=avatar.colors,
        color_known=jnp.asarray(reach > 0),
        shift=array(way[:, None] * rays),
        shift_known=jnp.asarray(reach > 0),
        weights=avatar.weights,
        transforms=skinning_transforms(avatar.joints, local, PARENTS),
        viewmats=jnp.tile(jnp.eye(4), (2, 1, 1)),
        K=jnp.tile(jnp.array([[240.0, 0, 64], [0, 240.0, 64], [0, 0, 1]]), (2, 1, 1)),
        views=jnp.zeros((2, VIEW_SIDE, VIEW_SIDE, 4)),
        view_known=jnp.array([True, False]),
    )
    return Sample(
        crops=crops,
        photo=photo,
        means=array(avatar.means),
        quats=avatar.quats,
        scales=avatar.scales,
        opacities=avatar.opacities,
        weights=avatar.weights,
        truth=truth,
    )


def perfect(sample):
    """The changes that a perfect model makes."""
    return Changes(
        shift=sample.truth.shift,
        growth=jnp.zeros_like(sample.scales),
        opacity=jnp.zeros_like(sample.opacities),
        colors=sample.truth.colors,
        weights=sample.truth.weights,
    )


@pytest.fixture(scope="module")
def samples(toys):
    """Each with one view, of the perfect changes."""
    shoot = jax.jit(reconstructor.render_changed)
    made = []
    for seed in range(BATCH):
        sample = one_sample(toys, seed)
        truth = sample.truth
        image, alpha = shoot(sample, perfect(sample), truth.viewmats[0], truth.K[0], jnp.zeros(3))
        assert alpha.max() > 0.5
        views = truth.views.at[0].set(jnp.concatenate([image, alpha[..., None]], -1))
        truth = dataclasses.replace(truth, views=views)
        made.append(dataclasses.replace(sample, truth=truth))
    return made


@pytest.fixture(scope="module")
def batch(samples):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *samples)


@contextlib.contextmanager
def unoptimised():
    """Compile in half the time; what comes out may differ by rounding only."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def start(batch):
    with unoptimised():
        params = reconstructor.initial_params(CONFIG, jax.random.key(0), batch)
    return TrainState(params, OPTIMISER.init(params), jnp.zeros((), jnp.int32))


@pytest.fixture(scope="module")
def step():
    made = reconstructor.make_reconstructor_step(CONFIG, LOSS, OPTIMISER)
    compiled = compile_step(made)
    # The step consumes the state it is given.
    return lambda state, batch: compiled(jax.tree.map(jnp.copy, state), batch)


@pytest.fixture(scope="module")
def stepped(step, start, batch):
    return step(start, batch)


def test_initial_parameters_are_those_of_the_config(start):
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(start.params["params"], sep="/")
    assert {path: leaf.shape for path, leaf in flat.items()} == parameter_shapes(CONFIG)


def gradient(state):
    """Read the first step's gradient off Adam's memory."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) / 0.1, state.opt_state[0].mu["params"])


def test_the_loss_falls(step, stepped, batch):
    """Measured with the first step's hiding and tint."""
    state, first = stepped
    for _ in range(99):
        state, _ = step(state, batch)
    assert int(state.step) == 100
    _, last = step(dataclasses.replace(state, step=jnp.zeros((), jnp.int32)), batch)
    assert all(np.isfinite(value) for value in last.values())
    assert float(last["loss"]) < 0.9 * float(first["loss"])
    assert float(last["color"]) < 0.9 * float(first["color"])


def test_the_loss_is_the_weighted_sum(stepped):
    _, metrics = stepped
    assert set(metrics) == {"color", "shift", "weights", "held", "view", "loss", "gradient"}
    names = ("color", "shift", "weights", "held", "view")
    expected = sum(getattr(LOSS, name) * float(metrics[name]) for name in names)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def test_gradients_are_finite_and_reach_all_parts(stepped):
    found = gradient(stepped[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    for name, tree in found.items():
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree)) > 0, name
    norm = np.sqrt(sum((leaf.astype(float) ** 2).sum() for leaf in jax.tree.leaves(found)))
    assert norm == pytest.approx(float(stepped[1]["gradient"]), rel=1e-4)


def test_a_step_repeats_bitwise(step, start, stepped, batch):
    again = step(start, batch)
    for a, b in zip(*map(jax.tree.leaves, (stepped, again)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_step_hides_something_else(step, start, stepped, batch):
    """The same parameters on the same batch, a step later."""
    later = step(dataclasses.replace(start, step=jnp.ones((), jnp.int32)), batch)
    assert float(later[1]["loss"]) != float(stepped[1]["loss"])


def test_one_device_of_a_mesh_equals_none(start, stepped, batch):
    """Without the compiler's optimisations, so that the two agree about them as well."""
    mesh = make_mesh(jax.devices()[:1])
    made = reconstructor.make_reconstructor_step(CONFIG, LOSS, OPTIMISER, mesh=mesh)
    with unoptimised():
        state, metrics = compile_step(made, mesh)(jax.tree.map(jnp.copy, start), batch)
    for name, value in stepped[1].items():
        np.testing.assert_allclose(metrics[name], value, rtol=5e-4, atol=1e-7, err_msg=name)
    pairs = zip(*(jax.tree.leaves(gradient(each)) for each in (state, stepped[0])), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6)


def hide(photo, **options):
    hidden = jax.jit(reconstructor._hide, static_argnums=0)
    loss = dataclasses.replace(LOSS, **options)
    return jax.tree.map(np.asarray, hidden(loss, photo, jax.random.key(4)))


def test_hidden_points_are_not_seen_any_more(samples):
    """They lie in spheres, lose depth and get colours of what is left; all else stays."""
    photo = samples[0].photo
    shown, hidden = hide(photo, hidden=1, largest=0.5)
    seen = np.asarray(photo.seen)
    assert 3 < hidden.sum() < seen.sum() - 3
    np.testing.assert_array_equal(shown.seen, seen & ~hidden)
    np.testing.assert_array_equal(hidden & ~seen, False)
    assert not shown.shifts[hidden].any()
    np.testing.assert_allclose(shown.reach[hidden], 0.08)
    for name in ("colors", "shifts", "reach"):
        before, after = np.asarray(getattr(photo, name)), getattr(shown, name)
        np.testing.assert_array_equal(after[~hidden], before[~hidden])
    for name in ("points", "rays", "nearest", "shares"):
        np.testing.assert_array_equal(getattr(shown, name), getattr(photo, name))
    # A sphere about one of the points holds the hidden ones and no other seen one.
    distance = np.linalg.norm(photo.points[:, None] - photo.points, axis=2)
    inside = np.where(hidden, distance, 0).max(1)
    outside = np.where(seen & ~hidden, distance, np.inf).min(1)
    assert ((inside < 0.5) & (inside < outside)).any()


def test_hidden_colours_come_from_elsewhere(samples):
    photo = samples[0].photo
    shown, hidden = hide(photo, hidden=1, largest=0.5)
    other = dataclasses.replace(photo, colors=jnp.where(hidden[:, None], 0.0, photo.colors))
    np.testing.assert_array_equal(hide(other, hidden=1, largest=0.5)[0].colors, shown.colors)
    unseen = ~np.asarray(photo.seen)[:, None]
    other = dataclasses.replace(photo, colors=jnp.where(unseen, 0.0, photo.colors))
    again = hide(other, hidden=1, largest=0.5)[0]
    np.testing.assert_array_equal(again.colors[hidden], shown.colors[hidden])
    lent = np.asarray(photo.colors)[shown.seen]
    assert (shown.colors[hidden] >= lent.min(0) - 1e-6).all()
    assert (shown.colors[hidden] <= lent.max(0) + 1e-6).all()
    assert np.abs(shown.colors - photo.colors)[hidden].mean() > 0.05


def test_hiding_nothing_and_everything(samples):
    photo = samples[0].photo
    shown, hidden = hide(photo, largest=0.0)
    assert not hidden.any()
    jax.tree.map(np.testing.assert_array_equal, shown, jax.tree.map(np.asarray, photo))
    shown, hidden = hide(photo, hidden=20, largest=100.0)
    np.testing.assert_array_equal(hidden, photo.seen)
    assert not shown.seen.any() and np.isfinite(shown.colors).all()


def test_tint_is_one_gain_for_all_that_belongs_together(samples):
    """What would exceed 1 is cut, in photo and truth alike."""
    sample = samples[0]
    made = jax.jit(reconstructor._tint, static_argnums=0)(LOSS, sample, jax.random.key(3))

    def colors(sample):
        crops, truth = sample.crops, sample.truth
        pictures = crops.body, crops.head, crops.hands, sample.photo.colors, truth.colors
        return [np.asarray(c).reshape(-1, 3) for c in (*pictures, truth.views[..., :3])]

    before, after = colors(sample), colors(made)
    dark = (before[0] > 0.1) & (before[0] < 0.7)
    gain = np.array([(after[0][dark[:, c], c] / before[0][dark[:, c], c]).mean() for c in range(3)])
    assert (np.abs(gain - 1) < 0.25).all() and np.ptp(gain) > 0.02
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a, np.minimum(b * gain, 1), atol=1e-6)
    np.testing.assert_array_equal(made.truth.views[..., 3], sample.truth.views[..., 3])
    seen = np.asarray(sample.photo.seen)
    np.testing.assert_array_equal(made.photo.colors[seen], made.truth.colors[seen])
    same = [
        (s.means, s.scales, s.crops.hands_seen, s.photo.shifts, s.photo.seen, s.truth.shift)
        for s in (made, sample)
    ]
    jax.tree.map(np.testing.assert_array_equal, *same)


def test_true_way(samples):
    """Along the ray, within reach, and of unseen points only away."""
    rng = np.random.default_rng(9)
    sample = samples[0]
    photo = jax.tree.map(np.asarray, sample.photo)
    shift = rng.normal(0, 0.05, (COUNT, 3)).astype(np.float32)
    way = reconstructor.true_way(dataclasses.replace(sample.truth, shift=shift), sample.photo)
    for n in range(COUNT):
        along = float(shift[n].astype(float) @ photo.rays[n])
        least = -photo.reach[n] if photo.seen[n] else 0.0
        assert float(way[n]) == pytest.approx(min(max(along, least), photo.reach[n]), abs=1e-6)


def test_terms_against_a_loop(samples):
    """Colours of what is not seen; ways of what is not hidden; weights and changes of all."""
    rng = np.random.default_rng(6)
    sample = samples[0]
    shown, hidden = hide(sample.photo, hidden=1, largest=0.5)
    changes: Any = Changes(
        *(
            jnp.asarray(values, jnp.float32)
            for values in (
                rng.normal(0, 0.02, (COUNT, 3)),
                rng.normal(0, 0.2, (COUNT, 3)),
                rng.normal(0, 0.5, COUNT),
                rng.uniform(size=(COUNT, 3)),
                rng.dirichlet(np.ones(55), size=COUNT),
            )
        )
    )
    terms = jax.jit(reconstructor._terms)(sample, changes, shown, hidden)
    changes = jax.tree.map(lambda leaf: np.asarray(leaf, float), changes)
    truth = jax.tree.map(lambda leaf: np.asarray(leaf, float), sample.truth)
    color, shift, weights = [], [], []
    ways = np.asarray(reconstructor.true_way(sample.truth, shown), float)
    for n in range(COUNT):
        if truth.color_known[n] and not shown.seen[n]:
            color.append(np.abs(changes.colors[n] - truth.colors[n]).mean())
        if truth.shift_known[n] and not hidden[n]:
            off = 100 * (changes.shift[n] @ shown.rays[n] - ways[n])
            shift.append(np.hypot(off, 0.1) - 0.1)
        ratio = np.log((truth.weights[n] + 1e-6) / (changes.weights[n] + 1e-6))
        weights.append((truth.weights[n] * ratio).sum())
    held = (changes.growth**2).mean() + (changes.opacity**2).mean() / 9
    expected = {
        "color": np.mean(color),
        "shift": np.mean(shift),
        "weights": np.mean(weights),
        "held": held,
    }
    assert set(terms) == set(expected) and len(color) > 20 and 20 < len(shift) < COUNT - 10
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-4), name


def test_perfect_changes_cost_nothing(samples):
    """The view that is not known, which is black, never counts; unchanged colours cost."""
    sample = samples[0]
    right = perfect(sample)
    wrong = dataclasses.replace(right, colors=1 - right.colors)
    view = jax.jit(reconstructor._view_term)
    for seed in range(4):
        assert float(view(sample, right, jax.random.key(seed))) < 1e-5
        assert float(view(sample, wrong, jax.random.key(seed))) > 0.01
    none = jnp.zeros(COUNT, bool)
    terms = jax.jit(reconstructor._terms)(sample, right, sample.photo, none)
    for name in ("color", "shift", "weights", "held"):
        assert float(terms[name]) == pytest.approx(0, abs=1e-5), name
