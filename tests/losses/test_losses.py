"""Losses against numpy in float64, finite differences, and what they must ignore."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation

from jaxavatar.losses import (
    LossConfig,
    arap,
    charbonnier,
    geman_mcclure,
    keypoint_distance,
    l1,
    neighbour_graph,
    psnr,
    robust,
    ssim,
    total,
)


def test_l1_and_psnr(rng):
    a, b = rng.random((2, 3, 5, 4, 3))
    mask = rng.random((3, 5, 4))
    np.testing.assert_allclose(l1(jnp.array(a), jnp.array(b)), np.abs(a - b).mean(), rtol=1e-5)
    expected = np.average(np.abs(a - b).mean(-1), weights=mask)
    np.testing.assert_allclose(l1(jnp.array(a), jnp.array(b), jnp.array(mask)), expected, rtol=1e-5)
    assert float(l1(jnp.array(a), jnp.array(b), jnp.zeros((3, 5, 4)))) == 0.0
    expected = -10 * np.log10(((a - b) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(psnr(jnp.array(a), jnp.array(b)), expected, rtol=1e-5)
    np.testing.assert_allclose(psnr(jnp.array(a), jnp.array(a)), 100.0, rtol=1e-6)


def test_ssim_is_scikit_images(rng):
    metrics = pytest.importorskip("skimage.metrics")
    a = rng.random((2, 23, 17, 3))
    b = np.clip(a + 0.2 * rng.normal(size=a.shape), 0, 1)
    expected = [
        metrics.structural_similarity(
            *pair, channel_axis=-1, data_range=1, gaussian_weights=True, use_sample_covariance=False
        )
        for pair in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(ssim(jnp.array(a), jnp.array(b)), expected, atol=1e-5)
    np.testing.assert_allclose(ssim(jnp.array(a), jnp.array(a)), 1.0, rtol=1e-6)
    with pytest.raises(ValueError, match="10 pixels"):
        ssim(jnp.zeros((10, 30, 3)), jnp.zeros((10, 30, 3)))


def test_gradient_of_ssim_and_l1(rng, x64):
    a, b = jnp.array(rng.random((2, 12, 13, 2)))
    for loss in (ssim, l1):
        check_grads(lambda x, f=loss: f(x, b), (a,), order=1, modes=("rev",), rtol=1e-6)


def test_charbonnier_is_quadratic_then_linear(x64):
    assert float(charbonnier(jnp.array(1e-8), 1.0)) == pytest.approx(0.5e-8, rel=1e-6)
    assert float(charbonnier(jnp.array(1e8), 1.0)) == pytest.approx(1e4 - 1, rel=1e-4)
    assert jax.grad(charbonnier)(0.0, 1.0) == 0.5


def test_geman_mcclure_is_quadratic_then_flat(x64):
    assert float(geman_mcclure(jnp.array(1e-8), 2.0)) == pytest.approx(1e-8 / 4, rel=1e-6)
    assert float(geman_mcclure(jnp.array(1e8), 2.0)) == pytest.approx(1.0, rel=1e-6)
    assert jax.grad(geman_mcclure)(0.0, 2.0) == jax.grad(charbonnier)(0.0, 2.0) == 0.25
    with pytest.raises(ValueError, match="'l2'"):
        robust(jnp.zeros(1), 1.0, "l2")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("penalty", ["charbonnier", "geman-mcclure"])
def test_keypoint_distance_is_equation_9(penalty, rng):
    points, targets = 10 * rng.normal(size=(2, 4, 6, 2))
    weights = rng.random((4, 6))
    hand = np.array([0, 0, 0, 1, 1, 0], bool)
    d = np.linalg.norm(points - targets, axis=-1)
    rho = {
        "charbonnier": np.sqrt(d**2 + 4.0) - 2.0,
        "geman-mcclure": d**2 / (d**2 + 4.0),
    }[penalty]
    expected = (weights * np.where(hand, 3.0, 1.0) * rho).sum() / weights.sum()
    actual = keypoint_distance(
        *map(jnp.array, (points, targets, weights, hand)),
        hand_weight=3.0,
        width=2.0,
        penalty=penalty,
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_lost_keypoints_are_ignored_even_if_nan():
    points = jnp.ones((1, 2, 2))
    targets = jnp.array([[[jnp.nan, jnp.nan], [1.0, 2.0]]])
    weights = jnp.array([[0.0, 1.0]])
    loss, gradient = jax.value_and_grad(keypoint_distance)(
        points, targets, weights, jnp.zeros(2, bool)
    )
    assert float(loss) == pytest.approx(np.sqrt(2) - 1)
    np.testing.assert_array_equal(gradient[0, 0], 0.0)


@pytest.mark.parametrize("penalty", ["charbonnier", "geman-mcclure"])
def test_gradient_of_keypoint_distance(penalty, rng, x64):
    points, targets = jnp.array(rng.normal(size=(2, 3, 5, 2)))
    points = points.at[0, 0].set(targets[0, 0])  # zero distance, where a norm has none
    weights, hand = jnp.array(rng.random((3, 5))), jnp.arange(5) > 2
    check_grads(
        lambda p: keypoint_distance(p, targets, weights, hand, 2.0, 1.0, penalty),
        (points,),
        order=2,
        modes=("rev",),
        rtol=1e-5,
    )


def test_neighbour_graph(rng):
    points = rng.normal(size=(30, 3))
    points[5] = points[6] = points[7]  # coincident points must not be their own neighbours
    graph = neighbour_graph(points, 4)
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert not (graph == np.arange(30)[:, None]).any()
    np.testing.assert_allclose(
        np.sort(np.take_along_axis(distance, graph, 1), 1), np.sort(distance, 1)[:, :4]
    )
    with pytest.raises(ValueError, match="got 3"):
        neighbour_graph(points[:3], 4)


def test_arap(rng, x64):
    points = rng.normal(size=(20, 3))
    graph = jnp.array(neighbour_graph(points, 4))
    turn = Rotation.from_rotvec([0.5, -1.0, 0.3]).as_matrix()
    turns = np.broadcast_to(turn, (20, 3, 3))
    rigid = points @ turn.T + [1.0, 2.0, 3.0]
    assert float(arap(*map(jnp.array, (points, rigid, turns)), neighbours=graph)) < 1e-25
    # Stretched by 10 % in every direction, every edge has a strain of 10 %.
    grown = arap(*map(jnp.array, (points, 1.1 * rigid, turns)), neighbours=graph)
    assert float(grown) == pytest.approx(0.01)
    moved = rigid + 0.1 * rng.normal(size=(20, 3))
    strain = size = 0.0
    for i in range(20):
        for j in np.asarray(graph[i]):
            edge = points[j] - points[i]
            strain += np.sum((moved[j] - moved[i] - turn @ edge) ** 2)
            size += np.sum(edge**2)
    actual = arap(*map(jnp.array, (points, moved, turns)), neighbours=graph)
    assert float(actual) == pytest.approx(strain / size, rel=1e-10)
    check_grads(
        lambda q: arap(jnp.array(points), q, jnp.array(turns), graph),
        (jnp.array(moved),),
        order=1,
        modes=("rev",),
        rtol=1e-6,
    )


def test_total():
    config = LossConfig(image=2.0, keypoint=0.5)
    loss, metrics = total({"image": jnp.array(3.0), "keypoint": jnp.array(4.0)}, config)
    assert float(loss) == 8.0
    assert {name: float(value) for name, value in metrics.items()} == {
        "image": 3.0,
        "keypoint": 4.0,
        "loss": 8.0,
    }
    for unknown in ("sharpness", "keypoint_width"):
        with pytest.raises(ValueError, match=unknown):
            total({unknown: jnp.array(0.0)}, config)


def test_a_term_without_weight_adds_nothing():
    config = LossConfig(image=1.0, ssim=0.0)
    assert config.active("image") and not config.active("ssim")
    terms = {"image": jnp.array(2.0), "ssim": jnp.array(np.nan)}
    loss, metrics = total(terms, config)
    assert float(loss) == 2.0 and np.isnan(metrics["ssim"])
    assert float(total({"ssim": jnp.array(1.0)}, config)[0]) == 0.0
    with pytest.raises(ValueError, match="hand"):
        config.active("hand")
