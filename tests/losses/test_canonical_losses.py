"""The shape losses of canonical Gaussians against loops in float64, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxavatar.losses import as_close, as_spherical

GROUPS = {
    "head": np.arange(5),
    "lower_body": np.arange(5, 12),
    "upper_body": np.arange(12, 30),
    "hands": np.arange(20, 26),
}


def grouped(value, weights):
    """Sum group by group, Gaussian by Gaussian; `value` is a function of example and row."""
    total = 0.0
    for name, rows in GROUPS.items():
        total += weights[name] * np.mean([value(b, n) for b in range(2) for n in rows])
    return total


def test_needles(rng, x64):
    scales = np.exp(rng.normal(-5, 1.5, size=(2, 30, 3)))
    weights = {"head": 1, "lower_body": 100, "upper_body": 1000, "hands": 10_000}
    expected = grouped(
        lambda b, n: max(max(scales[b, n]) / (min(scales[b, n]) + 1e-6) - 5, 0), weights
    )
    assert float(as_spherical(jnp.array(scales), GROUPS)) == pytest.approx(expected, rel=1e-12)
    assert expected > 0
    check_grads(lambda s: as_spherical(s, GROUPS), (scales,), 1, ("rev",), rtol=1e-5, eps=1e-9)


def test_balls_cost_nothing(rng):
    scales = jnp.array(0.01 * rng.uniform(0.3, 1.0, size=(30, 3)))
    loss, gradient = jax.value_and_grad(as_spherical)(scales, GROUPS)
    assert float(loss) == 0.0 and not np.abs(gradient).any()


def test_far_points(rng, x64):
    offsets = 0.05 * rng.normal(size=(2, 30, 3))
    weights = {"head": 1, "lower_body": 1, "upper_body": 100, "hands": 1000}

    def excess(b, n):
        return max(np.sqrt(sum(offsets[b, n] ** 2)) - 0.05625, 0)

    actual = float(as_close(jnp.array(offsets), GROUPS))
    assert actual == pytest.approx(grouped(excess, weights), rel=1e-12)
    plain = np.mean([excess(b, n) for b in range(2) for n in range(30)])
    assert float(as_close(jnp.array(offsets))) == pytest.approx(plain, rel=1e-12)
    check_grads(lambda o: as_close(o, GROUPS), (offsets,), 1, ("rev",), rtol=1e-5)


def test_points_at_home_have_a_derivative(rng):
    offsets = jnp.zeros((30, 3)).at[:10].set(jnp.array(0.01 * rng.normal(size=(10, 3))))
    loss, gradient = jax.value_and_grad(as_close)(offsets, GROUPS)
    assert float(loss) == 0.0 and not np.asarray(gradient).any()


def test_groups_must_fit():
    values = jnp.ones((30, 3))
    with pytest.raises(ValueError, match="groups are"):
        as_close(values, {"head": np.arange(3)})
    with pytest.raises(ValueError, match="'hands' is empty"):
        as_spherical(values, GROUPS | {"hands": np.arange(0)})
