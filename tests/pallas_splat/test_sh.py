"""Spherical harmonics against SciPy's complex ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import sh_colors
from scipy.special import sph_harm_y


def scipy_basis(directions, degree):
    x, y, z = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    polar, azimuth = np.arccos(z), np.arctan2(y, x)
    columns = []
    for l in range(degree + 1):  # noqa: E741
        for m in range(-l, l + 1):
            value = sph_harm_y(l, abs(m), polar, azimuth)
            columns.append(value.real if m == 0 else np.sqrt(2) * (value.imag, value.real)[m > 0])
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_matches_scipy(degree):
    rng = np.random.default_rng(degree)
    directions = rng.normal(size=(50, 3))
    coeffs = rng.normal(size=(50, (degree + 1) ** 2, 3))
    expected = np.einsum("nk,nkc->nc", scipy_basis(directions, degree), coeffs)
    with jax.enable_x64(True):
        actual = sh_colors(jnp.asarray(coeffs), jnp.asarray(directions))
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_rejects_bad_shapes():
    with pytest.raises(ValueError, match=r"got shape \(5, 3, 3\)"):
        sh_colors(jnp.zeros((5, 3, 3)), jnp.ones((5, 3)))
    with pytest.raises(ValueError, match=r"directions must have shape \(5, 3\)"):
        sh_colors(jnp.zeros((5, 4, 3)), jnp.ones((4, 3)))
