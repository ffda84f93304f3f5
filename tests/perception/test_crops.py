import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.perception import crops
from jaxavatar.perception.crops import Box

TURNED = crops.box(20.5, 14.0, 18.0, 12.0, angle=0.7)


def image(height=30, width=40):
    return np.random.default_rng(0).uniform(size=(height, width, 3)).astype(np.float32)


def test_crop_of_the_whole_image_is_the_image():
    whole = crops.box(15, 15, 30)
    np.testing.assert_allclose(
        crops.crop(jnp.asarray(image(30, 30)), whole, 30), image(30, 30), atol=1e-5
    )


@pytest.mark.parametrize("place", [TURNED, crops.box(2, 3, 30, angle=-2)])
def test_crop_on_the_device_equals_cut_on_the_host(place):
    """`cut` samples with scipy, independently; the second box reaches outside the image."""
    on_device = jax.jit(crops.crop, static_argnums=2)(jnp.asarray(image()), place, 16)
    np.testing.assert_allclose(on_device, crops.cut(image(), place, 16), atol=2e-5)


def test_shrinking_averages_instead_of_skipping():
    """A fine checkerboard must become grey."""
    board = np.indices((64, 64)).sum(0) % 2
    board = np.repeat(board[..., None], 3, -1).astype(np.float32)
    place = crops.box(32, 32, 64)
    np.testing.assert_allclose(crops.cut(board, place, 16), 0.5, atol=1e-3)
    np.testing.assert_allclose(crops.crop(jnp.asarray(board), place, 16, samples=2), 0.5, atol=1e-3)


def test_points_go_there_and_back():
    points = np.random.default_rng(1).uniform(0, 16, (5, 2)).astype(np.float32)
    there = crops.to_image(points, TURNED, 16)
    np.testing.assert_allclose(crops.to_crop(there, TURNED, 16), points, atol=1e-4)
    np.testing.assert_allclose(crops.to_image(jnp.asarray(points), TURNED, 16), there, atol=1e-5)


def test_positive_angle_turns_clockwise_on_the_screen():
    quarter = crops.box(10, 10, 4, angle=np.pi / 2)
    # The crop's right edge lies below its centre in the image.
    right = crops.to_image(np.array([[8.0, 4.0]]), quarter, 8)
    np.testing.assert_allclose(np.asarray(right), [[10, 12]], atol=1e-5)


def test_gradient_reaches_image_and_box():
    wave = np.sin(np.arange(30)[:, None] / 6) + np.cos(np.arange(40) / 5)
    pixels = jnp.asarray(np.repeat(wave[..., None], 3, -1), jnp.float32)

    @jax.jit
    def brightness(pixels, center):
        place = Box(center, TURNED.size, TURNED.angle)
        return (crops.crop(pixels, place, 8) * jnp.arange(8)[:, None, None]).sum()

    center = jnp.asarray(TURNED.center)
    slope, moved = jax.jit(jax.grad(brightness, argnums=(0, 1)))(pixels, center)
    # The crop is linear in the image: its gradient reproduces it.
    np.testing.assert_allclose((slope * pixels).sum(), brightness(pixels, center), rtol=1e-4)
    for axis in (0, 1):
        shift = 0.05 * jnp.eye(2)[axis]
        rise = brightness(pixels, center + shift) - brightness(pixels, center - shift)
        np.testing.assert_allclose(moved[axis], rise / 0.1, rtol=0.05)
