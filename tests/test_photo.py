import contextlib
import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxavatar import photo
from jaxavatar.errors import InputError


@pytest.fixture
def colours() -> np.ndarray:
    """A smooth picture, 200 x 280, uint8."""
    v, u = np.mgrid[0:200, 0:280]
    return np.stack([u * 255 // 279, v * 255 // 199, (u + v) * 255 // 478], -1).astype(np.uint8)


def error_of(path) -> str:
    with pytest.raises(InputError) as caught:
        photo.load_photo(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [("png", 0), ("bmp", 0), ("tiff", 0), ("jpg", 10), ("webp", 14)]
)
def test_formats(tmp_path, colours, suffix, tolerance):
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(colours).save(path, quality=95)
    image, messages = photo.load_photo(path)
    assert image.dtype == np.float32 and image.shape == (200, 280, 3)
    assert np.abs(image * 255 - colours).max() <= tolerance
    assert len(messages) == 1 and "280 x 200 px" in messages[0]  # less than 256 px


@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_rotation(tmp_path, colours, orientation):
    # What the file stores for each orientation, by the EXIF standard: rows x columns as seen.
    stored = {
        1: colours,
        2: colours[:, ::-1],
        3: colours[::-1, ::-1],
        4: colours[::-1],
        5: colours.swapaxes(0, 1),
        6: np.rot90(colours),
        7: np.rot90(colours, 2).swapaxes(0, 1),
        8: np.rot90(colours, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "p.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(np.round(photo.load_photo(path).image * 255), colours)


def test_grey_and_sixteen_bits(tmp_path):
    ramp = np.linspace(0, 65535, 300 * 260).reshape(300, 260).astype(np.uint16)
    for name, stored in (("l.png", (ramp // 257).astype(np.uint8)), ("i16.png", ramp)):
        Image.fromarray(stored).save(tmp_path / name)
        image, messages = photo.load_photo(tmp_path / name)
        assert not messages
        np.testing.assert_allclose(image, np.repeat(ramp[..., None] / 65535, 3, -1), atol=1 / 255)
    Image.fromarray(ramp).save(tmp_path / "i16.tiff")
    np.testing.assert_array_equal(photo.load_photo(tmp_path / "i16.tiff").image, image)


def test_transparency_shows_grey(tmp_path, colours):
    alpha = np.full((200, 280), 255, np.uint8)
    alpha[:50], alpha[50:100] = 0, 128
    Image.fromarray(np.dstack([colours, alpha])).save(tmp_path / "a.png")
    image, messages = photo.load_photo(tmp_path / "a.png")
    weight = alpha[..., None] / 255
    np.testing.assert_allclose(image, colours / 255 * weight + 0.5 * (1 - weight), atol=1e-6)
    assert any("transparent" in m for m in messages)
    # An alpha channel that hides nothing is not worth a word.
    alpha[:] = 255
    Image.fromarray(np.dstack([colours, alpha])).save(tmp_path / "b.png")
    assert not any("transparent" in m for m in photo.load_photo(tmp_path / "b.png").messages)


@pytest.mark.parametrize("side", [300, 3000])
def test_palette_with_transparency(tmp_path, side):
    picture = Image.new("P", (side, side), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (0, 0, side // 2, side))
    picture.save(tmp_path / "p.png", transparency=0)
    image, messages = photo.load_photo(tmp_path / "p.png")
    np.testing.assert_allclose(image[5, 5], [0, 0, 1])
    np.testing.assert_allclose(image[5, -5], 0.5)
    assert len(messages) == 1


def test_colour_profile(tmp_path):
    # In a profile with swapped primaries, stored red means sRGB green.
    red = Image.new("RGB", (300, 300), (255, 0, 0))
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = {
        bytes(profile[i : i + 4]): struct.unpack(">I", profile[i + 4 : i + 8])[0]
        for i in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12)
    }
    r, g = (slice(at[tag] + 8, at[tag] + 20) for tag in (b"rXYZ", b"gXYZ"))
    profile[r], profile[g] = profile[g], profile[r]
    red.save(tmp_path / "p.png", icc_profile=bytes(profile))
    image, messages = photo.load_photo(tmp_path / "p.png")
    np.testing.assert_allclose(image[0, 0], [0, 1, 0], atol=0.02)
    assert not messages
    red.convert("RGBA").save(tmp_path / "a.png", icc_profile=bytes(profile))
    np.testing.assert_array_equal(photo.load_photo(tmp_path / "a.png").image, image)
    red.save(tmp_path / "q.png", icc_profile=b"nonsense")
    image, messages = photo.load_photo(tmp_path / "q.png")
    np.testing.assert_allclose(image[0, 0], [1, 0, 0])
    assert "colour profile" in messages[0]


def test_large_is_shrunk(tmp_path, colours):
    big = Image.fromarray(colours).resize((2800, 2000))
    big.save(tmp_path / "p.png")
    image = photo.load_photo(tmp_path / "p.png", max_side=700).image
    assert image.shape == (500, 700, 3)
    expected = np.asarray(big, np.float32).reshape(500, 4, 700, 4, 3).mean((1, 3)) / 255
    assert np.abs(image - expected).mean() < 2e-3


def test_too_small_and_too_long(tmp_path):
    Image.new("RGB", (60, 80)).save(tmp_path / "s.png")
    assert "60 x 80 px" in error_of(tmp_path / "s.png")
    Image.new("RGB", (6000, 200)).save(tmp_path / "l.png")
    assert "elongated" in error_of(tmp_path / "l.png")


def test_bomb(tmp_path):
    """A PNG of a few bytes that claims a huge size is refused by its header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    for side in (12_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        path = tmp_path / f"{side}.png"
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", b"")
            + chunk(b"IEND", b"")
        )
        assert "megapixels" in error_of(path)


def test_unreadable(tmp_path, colours):
    assert "No such file" in error_of(tmp_path / "missing.jpg")
    assert "directory" in error_of(tmp_path)
    (tmp_path / "empty.jpg").touch()
    assert "empty" in error_of(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("not a picture")
    assert "use JPEG" in error_of(tmp_path / "text.jpg")
    Image.new("F", (300, 300)).save(tmp_path / "float.tiff")
    assert "32 bits" in error_of(tmp_path / "float.tiff")


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "RGBX"])
def test_other_modes(tmp_path, mode):
    Image.new("RGB", (300, 300), (255, 255, 255)).convert(mode).save(tmp_path / "p.tiff")
    np.testing.assert_allclose(photo.load_photo(tmp_path / "p.tiff").image, 1, atol=0.01)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp"])
def test_damage_never_escapes(tmp_path, colours, suffix):
    """Cut or corrupted files either load or raise InputError, nothing else."""
    buffer = io.BytesIO()
    kind = {"jpg": "jpeg"}.get(suffix, suffix)
    options = {"compression": "tiff_deflate"} if suffix == "tiff" else {}
    Image.fromarray(colours).save(buffer, kind, **options)
    whole = buffer.getvalue()
    path = pathlib.Path(tmp_path / f"p.{suffix}")
    for fraction in (0.05, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * fraction)])
        error_of(path)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, min(len(whole), 2000), 4):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            photo.load_photo(path)
