"""Linear blend skinning against float64 numpy, and its inverse against itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxavatar.body import inverse_skin, skin

N, J = 200, 7


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    rotations = Rotation.from_rotvec(0.5 * rng.normal(size=(J, 3))).as_matrix()
    transforms = np.concatenate([rotations, rng.normal(size=(J, 3, 1))], axis=-1)
    return rng.normal(size=(N, 3)), rng.dirichlet(0.3 * np.ones(J), size=N), transforms


def test_skin_matches_the_blend_of_moved_points(example):
    points, weights, transforms = example
    moved_by = np.einsum("jab,nb->nja", transforms[..., :3], points) + transforms[..., 3]
    expected = np.einsum("nj,nja->na", weights, moved_by)
    actual, linear = jax.jit(skin)(*map(jnp.float32, example))
    np.testing.assert_allclose(actual, expected, atol=5e-6)
    np.testing.assert_allclose(
        linear, np.einsum("nj,jab->nab", weights, transforms[..., :3]), atol=2e-6
    )


def test_linear_is_the_derivative_of_the_motion(example):
    points, weights, transforms = map(jnp.float32, example)
    _, linear = skin(points, weights, transforms)
    jacobian = jax.jacobian(lambda p: skin(p[None], weights[:1], transforms)[0][0])(points[0])
    np.testing.assert_allclose(linear[0], jacobian, atol=1e-6)


def test_inverse_skin_undoes_skin(example):
    points, weights, transforms = map(jnp.float32, example)
    moved, linear = skin(points, weights, transforms)
    assert jnp.linalg.cond(linear).max() < 100
    np.testing.assert_allclose(jax.jit(inverse_skin)(moved, weights, transforms), points, atol=1e-4)


def test_inverse_skin_matches_a_direct_solve(example):
    points, weights, transforms = example
    blended = np.einsum("nj,jab->nab", weights, transforms)
    expected = np.linalg.solve(blended[..., :3], (points - blended[..., 3])[..., None])[..., 0]
    actual = inverse_skin(*map(jnp.float32, example))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
