"""The solver against scipy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from jaxavatar.reconstruction.least_squares import levenberg_marquardt


def rosenbrock(x, _):
    return jnp.concatenate([10.0 * (x[1:] - x[:-1] ** 2), 1.0 - x[:-1]])


def test_a_linear_problem_is_solved_in_closed_form():
    rng = np.random.default_rng(0)
    matrix, right = rng.normal(size=(20, 6)), rng.normal(size=20)
    expected = np.linalg.lstsq(matrix, right)[0]

    def residuals(x, _):
        return jnp.asarray(matrix, jnp.float32) @ x - jnp.asarray(right, jnp.float32)

    x, costs = levenberg_marquardt(residuals, jnp.zeros(6), jnp.ones(8))
    np.testing.assert_allclose(x, expected, atol=3e-5)
    np.testing.assert_allclose(costs[0], 0.5 * (right @ right), rtol=1e-5)
    left = 0.5 * ((matrix @ expected - right) ** 2).sum()
    np.testing.assert_allclose(costs[-1], left, rtol=1e-5)


def test_a_curved_valley_ends_where_scipy_does():
    start = np.array([-1.2, 1.0, -0.5])
    x, costs = jax.jit(lambda s: levenberg_marquardt(rosenbrock, s, jnp.ones(60)))(
        jnp.asarray(start, jnp.float32)
    )
    scipys = scipy.optimize.least_squares(lambda x: np.asarray(rosenbrock(x, 0)), start)
    np.testing.assert_allclose(x, scipys.x, atol=1e-4)
    assert (np.diff(costs) <= 0).all()
    assert costs[0] > 10


def test_a_step_into_nan_is_not_taken():
    """The first Newton step of log(x) = 1 from far away leaves the domain of the logarithm."""
    x, costs = levenberg_marquardt(lambda x, _: jnp.log(x) - 1.0, jnp.array([20.0]), jnp.ones(25))
    assert 20.0 - 20.0 * (np.log(20.0) - 1.0) < 0
    assert np.isfinite(costs).all()
    np.testing.assert_allclose(x, np.e, rtol=1e-4)


def test_the_schedule_reaches_the_residuals():
    """The target moves with the schedule, and the solution follows its last entry."""
    x, _ = levenberg_marquardt(lambda x, s: x - s, jnp.zeros(1), jnp.linspace(0.0, 3.0, 12))
    held, _ = levenberg_marquardt(lambda x, s: x - s, jnp.zeros(1), jnp.zeros(12))
    np.testing.assert_allclose(x, 3.0, atol=0.05)
    np.testing.assert_allclose(held, 0.0, atol=1e-6)
