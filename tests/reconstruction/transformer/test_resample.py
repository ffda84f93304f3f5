"""Resizing as in the encoders' training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from jaxavatar.reconstruction.transformer.resample import resize_grid, to_square


@pytest.mark.parametrize(("rows", "columns"), [(4, 5), (37, 32), (50, 37)])
def test_grid_matches_jax_image(rows, columns):
    grid = jnp.asarray(np.random.default_rng(0).normal(size=(37, 37, 3)), jnp.float32)
    expected = jax.image.resize(grid, (rows, columns, 3), "cubic")
    np.testing.assert_allclose(resize_grid(grid, rows, columns), expected, atol=1e-5)


def cubic_at(line, x):
    """Interpolate a line at x: the cubic kernel of a = -3/4, borders repeated."""
    base, value = int(np.floor(x)), 0.0
    for tap in range(base - 1, base + 3):
        d = abs(x - tap)
        near = 1.25 * d**3 - 2.25 * d**2 + 1
        far = -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
        value += (near if d <= 1 else far if d < 2 else 0.0) * line[min(max(tap, 0), len(line) - 1)]
    return value


def resized(line, size):
    if len(line) > size:
        deviation = max((len(line) / size - 1) / 2, 0.001)
        length = int(max(4 * deviation, 3))
        length += length % 2 == 0
        window = np.exp(-((np.arange(length) - length // 2) ** 2) / (2 * deviation**2))
        line = scipy.ndimage.correlate1d(line, window / window.sum(), mode="mirror")
    places = np.arange(size) * (len(line) - 1) / (size - 1)
    return np.array([cubic_at(line, x) for x in places])


@pytest.mark.parametrize("size", [7, 20, 21, 34])
def test_square_matches_numpy(size):
    """Shrinking much, shrinking slightly, keeping and enlarging a narrow image."""
    image = np.random.default_rng(1).uniform(size=(21, 12, 3))
    square = np.ones((21, 21, 3))
    square[:, 4:16] = image  # nine columns of white: four to the left
    down = np.apply_along_axis(resized, 0, square, size)
    expected = np.apply_along_axis(resized, 1, down, size)
    actual = to_square(jnp.asarray(image[None], jnp.float32), size)[0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    if size == 21:
        np.testing.assert_allclose(actual, square, atol=1e-6)
