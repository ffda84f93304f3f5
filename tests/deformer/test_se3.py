"""The exponential map against scipy's matrix exponential; scans against sequential loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from jaxavatar.deformer import se3

T, M = 23, 4


def expm(twist):
    """4x4 matrix exponential of a twist (v, omega), float64."""
    v, (x, y, z) = twist[:3], twist[3:]
    hat = np.zeros((4, 4))
    hat[:3, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
    hat[:3, 3] = v
    return scipy.linalg.expm(hat)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def twists():
    rng = np.random.default_rng(0)
    return 0.3 * rng.normal(size=(T, M, 6)), rng.uniform(0.2, 0.95, M)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.0999, 0.1001, 1.0, 3.1, 3.2, 7.0])
def test_exp_matches_the_matrix_exponential(angle, x64):
    twist = np.array([0.3, -0.2, 0.5, 0.6, -0.48, 0.64])
    twist[3:] *= angle
    np.testing.assert_allclose(se3.exp(jnp.array(twist)).as_matrix(), expm(twist), atol=1e-13)


def test_exp_in_float32():
    rng = np.random.default_rng(1)
    for scale in (1e-6, 1e-3, 0.05, 1.0):
        batch = scale * rng.normal(size=(20, 6))
        actual = jax.jit(se3.exp)(jnp.float32(batch)).as_matrix()
        np.testing.assert_allclose(actual, [expm(t) for t in batch], atol=2e-6)


@pytest.mark.parametrize("angle", [0.0, 0.05, 0.0999, 0.1001, 2.0])
def test_derivatives_of_exp(angle, x64):
    twist = np.array([0.3, -0.2, 0.5, 0.6, -0.48, 0.64])
    twist[3:] *= angle
    actual = jax.jacobian(lambda t: se3.exp(t).as_matrix())(jnp.array(twist))
    step = 1e-5
    expected = np.stack(
        [(expm(twist + step * e) - expm(twist - step * e)) / (2 * step) for e in np.eye(6)], -1
    )
    np.testing.assert_allclose(actual, expected, atol=1e-9)
    second = jax.jit(jax.hessian(lambda t: se3.exp(t).wxyz_xyz.sum()))(jnp.array(twist))
    assert np.isfinite(second).all()


def sequential(mode, twists, rate, start):
    """The two recurrences of the module's docstring, one frame at a time, as 4x4 matrices."""
    state, path = start, []
    for xi in twists:
        if mode == "paper":
            state = np.stack([expm(x) @ s for x, s in zip(xi, state, strict=True)])
            path.append(state)
        else:
            state = rate[:, None] * state + xi
            path.append(np.stack([expm(z) for z in state]))
    return np.stack(path)


@pytest.mark.parametrize("mode", ["paper", "leaky"])
def test_scan_matches_the_loop(mode, twists, x64):
    xi, rate = twists
    rng = np.random.default_rng(2)
    start = 0.5 * rng.normal(size=(M, 6))
    state = se3.exp(jnp.array(start)).wxyz_xyz if mode == "paper" else jnp.array(start)
    begin = np.stack([expm(s) for s in start]) if mode == "paper" else start
    actual, _ = jax.jit(se3.integrate, static_argnums=3)(xi, state, rate, mode)
    np.testing.assert_allclose(actual.as_matrix(), sequential(mode, xi, rate, begin), atol=1e-12)


@pytest.mark.parametrize("mode", ["paper", "leaky"])
def test_chunks_agree_with_the_whole(mode, twists):
    xi, rate = map(jnp.float32, twists)
    state = se3.rest_state(M, mode)
    integrate = jax.jit(se3.integrate, static_argnums=3)
    whole, end = integrate(xi, state, rate, mode)
    parts = []
    for piece in (xi[:7], xi[7:8], xi[8:]):
        path, state = integrate(piece, state, rate, mode)
        parts.append(path.as_matrix())
    np.testing.assert_allclose(jnp.concatenate(parts), whole.as_matrix(), atol=1e-5)
    np.testing.assert_allclose(state, end, atol=1e-5)


@pytest.mark.parametrize("mode", ["paper", "leaky"])
def test_derivatives_of_integration(mode, twists, x64):
    xi, rate = jnp.array(twists[0]), jnp.array(twists[1])
    weight = jnp.array(np.random.default_rng(3).normal(size=(T, M, 4, 4)))
    state = se3.rest_state(M, mode)

    def loss(xi, rate):
        return jnp.sum(weight * se3.integrate(xi, state, rate, mode)[0].as_matrix())

    for point in (xi, jnp.zeros_like(xi)):
        check_grads(jax.jit(loss), (point, rate), order=1, modes=("rev",), rtol=1e-6)


def test_leaky_forgets_and_paper_does_not():
    xi = jnp.zeros((200, 1, 6)).at[0, 0, 4].set(0.5)
    integrate = jax.jit(se3.integrate, static_argnums=3)
    ends = {
        mode: integrate(xi, se3.rest_state(1, mode), jnp.array([0.9]), mode)[0]
        for mode in ("paper", "leaky")
    }
    angle = {mode: jnp.linalg.norm(path.rotation().log()[-1, 0]) for mode, path in ends.items()}
    np.testing.assert_allclose(angle["paper"], 0.5, atol=1e-5)
    assert angle["leaky"] < 1e-6


def test_carried_rotations_stay_normalised():
    state = se3.rest_state(1, "paper")
    step = jax.jit(se3.integrate, static_argnums=3)
    for _ in range(300):
        _, state = step(jnp.full((10, 1, 6), 0.1), state, jnp.ones(1), "paper")
    assert abs(float(jnp.linalg.norm(state[0, :4])) - 1) < 1e-6
