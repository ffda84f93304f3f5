"""The Gaussian decoder and the weight decoder."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.reconstruction.transformer.gaussians import (
    GaussianLayer,
    WeightDecoder,
    bounded_exp,
    scale_clip,
)

WIDTH = 16


def apply(module: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Apply a module that returns no changed variables."""
    return module.apply(*arguments, **options)


def test_gaussians_of_a_new_layer():
    rng = np.random.default_rng(7)
    x, points = jnp.asarray(rng.normal(size=(1, 9, WIDTH))), jnp.asarray(rng.normal(size=(1, 9, 3)))
    for degree, shape in ((None, (1, 9, 3)), (2, (1, 9, 9, 3))):
        made, _ = GaussianLayer(degree).init_with_output(jax.random.key(0), x, points)
        assert made.colors.shape == shape
        np.testing.assert_allclose(made.means, points)
        np.testing.assert_allclose(made.scales, np.exp(-5), rtol=1e-5)
        np.testing.assert_allclose(made.opacities, 0.1, rtol=1e-5)
        np.testing.assert_allclose(made.quats, np.tile([1.0, 0, 0, 0], (1, 9, 1)))


def test_gaussians_stay_in_their_ranges():
    rng = np.random.default_rng(8)
    x, points = 30 * rng.normal(size=(1, 50, WIDTH)), np.zeros((1, 50, 3))
    upper = np.arange(50) < 20
    module = GaussianLayer()
    params = module.init(jax.random.key(0), x, points)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    made = apply(module, params, jnp.asarray(x), points, scale_clip(2000), upper)
    bound = 0.01 + 0.04 * 1900 / 2900
    assert made.scales[:, 20:].max() == pytest.approx(bound, rel=1e-5)
    assert made.scales[:, :20].max() == pytest.approx(0.02, rel=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(made.quats, axis=-1), 1, rtol=1e-5)
    assert np.abs(made.offsets).max() <= 0.5 and np.abs(made.offsets).max() > 0.49
    assert made.colors.min() >= 0 and made.colors.max() <= 1


@pytest.mark.parametrize("step", [0, 100, 1550, 3000, 10**7])
def test_clip_schedule(step):
    expected = np.interp(step, [100, 3000], [0.01, 0.05])
    assert scale_clip(step) == pytest.approx(expected, rel=1e-5)


def test_derivative_of_exp_is_bounded():
    assert bounded_exp(jnp.array(20.0)) == pytest.approx(np.exp(20), rel=1e-5)
    assert jax.grad(bounded_exp)(20.0) == pytest.approx(np.exp(15), rel=1e-5)
    assert jax.grad(bounded_exp)(2.0) == pytest.approx(np.exp(2), rel=1e-5)


def test_weight_decoder():
    rng = np.random.default_rng(9)
    template = rng.dirichlet(0.2 * np.ones(55), size=30).astype(np.float32)
    x = jnp.asarray(rng.normal(size=(1, 30, WIDTH)), jnp.float32)
    module = WeightDecoder(8)
    initial: Any = module.init_with_output(jax.random.key(0), x, template)
    weights, params = initial
    np.testing.assert_allclose(weights[0], template, atol=1e-4)  # 55 times the smallest weight
    params["params"]["out"]["bias"] = jnp.asarray(rng.normal(size=55), jnp.float32)
    expected = (template + 1e-6) * np.exp(params["params"]["out"]["bias"])
    actual = apply(module, params, x, template)[0]
    np.testing.assert_allclose(actual, expected / expected.sum(1, keepdims=True), rtol=1e-4)
