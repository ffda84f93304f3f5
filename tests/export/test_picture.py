import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxavatar.errors import InputError
from jaxavatar.export import picture


def test_picture_round_trip(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for name, given in (("a", pixels), ("b", pixels / 255), ("c", jnp.asarray(pixels / 255))):
        picture.save_picture(tmp_path / name, given)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), pixels)
    picture.save_picture(tmp_path / "grey", pixels[..., 0] / 255)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "grey")), pixels[..., 0])


@pytest.mark.parametrize("columns", [None, 1, 2, 3, 5])
def test_panels_are_all_there_and_apart(tmp_path, columns):
    """Each panel's colour covers exactly its own area, once."""
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sizes = [(40, 60), (50, 20), (30, 30)]
    panels = {
        f"panel {i}": np.broadcast_to(np.array(c, np.uint8), (*size, 3))
        for i, (c, size) in enumerate(zip(colours, sizes, strict=True))
    }
    picture.save_panels(tmp_path / "p.png", panels, height=100, columns=columns)
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    for colour, (height, width) in zip(colours, sizes, strict=True):
        mine = (sheet == colour).all(-1)
        assert mine.sum() == 100 * round(width * 100 / height)
        rows, columns_ = np.where(mine)
        area = (np.ptp(rows) + 1) * (np.ptp(columns_) + 1)
        assert mine.sum() == area  # one rectangle
        above = sheet[rows.min() - picture.LABEL_HEIGHT : rows.min(), columns_.min() :][:, :20]
        assert above.min() < 100  # its label


def test_unwritable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out"):
        picture.save_picture(tmp_path / "file" / "p.png", np.zeros((4, 4, 3)))
