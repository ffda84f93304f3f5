"""Framing of the person."""

import numpy as np
import pytest

from jaxavatar.reconstruction.transformer.photo_crop import crop_person, resize_area


def person(height, width, rows, columns):
    """A grey block with a bright first and a dark last row, on a coloured wall."""
    photo, matte = np.full((height, width, 3), (10, 200, 90), np.uint8), np.zeros((height, width))
    photo[rows, columns], matte[rows, columns] = 128, 1.0
    photo[rows.start, columns], photo[rows.stop - 1, columns] = 250, 5
    return photo, matte


@pytest.mark.parametrize(
    ("rows", "columns"), [(slice(20, 280), slice(80, 120)), (slice(60, 160), slice(20, 180))]
)
def test_person_fills_the_picture(rows, columns):
    """A tall person reaches top and bottom; a wide one the lower border and, nearly, the sides."""
    picture, matte = crop_person(*person(300, 200, rows, columns), 512)
    assert picture.shape == (840, 504, 3) and matte.shape == (840, 504)
    assert picture.dtype == np.float32 and picture.min() >= 0 and picture.max() <= 1
    ys, xs = np.nonzero(matte > 0.5)
    tall = rows.stop - rows.start > columns.stop - columns.start
    if tall:
        assert ys.min() < 20 and ys.max() > 820
        assert abs(xs.min() + xs.max() - 503) < 12
    else:
        # The cut left a margin below, so that the sides are a little farther.
        assert ys.min() > 300 and ys.max() > 830
        assert xs.min() < 25 and xs.max() > 479
    np.testing.assert_allclose(picture[matte == 0], 1.0)
    assert picture[matte == 1].max() < 1


def test_means_over_areas():
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(12, 20, 2))
    expected = image.reshape(4, 3, 5, 4, 2).mean((1, 3))
    np.testing.assert_allclose(resize_area(image, 4, 5), expected)
    line = np.array([1.0, 2.0, 4.0])[:, None, None]
    np.testing.assert_allclose(resize_area(line, 2, 1)[:, 0, 0], [4 / 3, 10 / 3])


def test_growing_keeps_constants_and_whole_pixels():
    image = np.arange(3.0)[:, None, None] + np.zeros((3, 2, 1))
    np.testing.assert_allclose(resize_area(image, 6, 4)[:, 0, 0], [0, 0, 1, 1, 2, 2])
    # Of four pixels for three, the second lies a third in the next.
    expected = [0, 2 / 3, 1 + 1 / 3, 2]
    np.testing.assert_allclose(resize_area(image, 4, 2)[:, 0, 0], expected)


def test_empty_matte():
    with pytest.raises(ValueError, match="the matte is empty"):
        crop_person(np.zeros((30, 20, 3), np.uint8), np.zeros((30, 20)), 512)
