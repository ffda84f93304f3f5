"""Read a photo from a file as an upright sRGB image."""

import io
import os
import pathlib
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps

from jaxavatar.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
MIN_SIDE = 128
GOOD_SIDE = 256
MAX_PIXELS = 120_000_000
GREY = 0.5  # what shows through transparent pixels

# What Pillow's decoders raise on damaged data, beside their own OSError.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


class Photo(NamedTuple):
    """A photo, and what the user should know about how it was read.

    Attributes:
        image: sRGB values in [0, 1], upright.
        messages: sentences without a full stop; empty when the file was used as it is.
    """

    image: Float[np.ndarray, "H W 3"]
    messages: tuple[str, ...]


def load_photo(path: str | os.PathLike[str], max_side: int = 1536) -> Photo:
    """Read a JPEG, PNG, WebP, BMP or TIFF file.

    The camera's rotation is applied, an embedded colour profile is converted to sRGB, grey and
    palette pictures become RGB, transparent pixels are laid over neutral grey, 16 bits per channel
    are rounded to 8, and a picture whose longer side exceeds `max_side` pixels is shrunk to it.
    Of several frames or pages the first is read.

    Raises:
        InputError: the file is missing, no such picture, damaged, larger than 120 megapixels or
            smaller than 128 pixels on a side.
    """
    name = pathlib.Path(path)
    messages: list[str] = []
    picture = _resized(_to_channels(_decode(name), name), name, max_side, messages)
    pixels = np.asarray(_to_srgb(picture, name, messages), np.float32) / 255
    image, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.size and alpha.min() < 1:
        image = image * alpha + GREY * (1 - alpha)
        messages.append(f"{name} has transparent parts; they were filled with neutral grey")
    return Photo(image, tuple(messages))


def _decode(name: pathlib.Path) -> Image.Image:
    """Read and decode the file, upright."""
    try:
        content = name.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the photo {name}: {error.strerror}") from error
    if not content:
        raise InputError(f"the photo {name} is empty; save it again")
    try:
        with warnings.catch_warnings():
            # The size is checked below, before any pixel is decoded.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError(f"the photo {name} is too large; {_LIMIT}") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"{name} is not a picture that can be read; use JPEG, PNG, WebP, BMP or TIFF"
        ) from error
    except _DAMAGE as error:
        raise _damaged(name) from error
    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width} x {picture.height} px"
        raise InputError(f"the photo {name} is too large ({size}); {_LIMIT}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata that does not matter here
            picture.load()
            return ImageOps.exif_transpose(picture)
    except _DAMAGE as error:
        raise _damaged(name) from error


_LIMIT = f"use one of at most {MAX_PIXELS // 1_000_000} megapixels"


def _damaged(name: pathlib.Path) -> InputError:
    return InputError(f"the photo {name} is damaged or incomplete; save or download it again")


def _to_channels(picture: Image.Image, name: pathlib.Path) -> Image.Image:
    """Convert to 8 bits per channel of mode L, RGB, RGBA or CMYK, which can be interpolated."""
    if picture.mode.startswith("I;16"):
        pixels = np.asarray(picture).astype(np.float32) / 65535
        grey = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
        grey.info = picture.info
        return grey
    if picture.mode in ("I", "F"):
        raise InputError(
            f"the photo {name} has 32 bits per channel; save it with 8 or 16 bits per channel"
        )
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture if picture.mode in ("L", "RGB", "CMYK") else picture.convert("RGB")


def _resized(
    picture: Image.Image, name: pathlib.Path, max_side: int, messages: list[str]
) -> Image.Image:
    """Check the size and shrink to `max_side`."""
    scale = min(1.0, max_side / max(picture.size))
    width, height = (round(side * scale) for side in picture.size)
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"the photo {name} is {picture.width} x {picture.height} px; use one at least"
            f" {GOOD_SIDE} px wide and high"
            + (f" and not that elongated: it is shrunk to {max_side} px" if scale < 1 else "")
        )
    if min(width, height) < GOOD_SIDE:
        messages.append(
            f"{name} is only {picture.width} x {picture.height} px; the result will look blurred"
        )
    return picture.resize((width, height), Image.Resampling.LANCZOS) if scale < 1 else picture


def _to_srgb(picture: Image.Image, name: pathlib.Path, messages: list[str]) -> Image.Image:
    """Convert to sRGB, by the embedded colour profile where there is one; alpha stays."""
    mode = "RGBA" if picture.mode == "RGBA" else "RGB"
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                picture, source, ImageCms.createProfile("sRGB"), outputMode=mode
            )
        except (ImageCms.PyCMSError, OSError):
            messages.append(f"{name} has an unusable colour profile; it was read as sRGB")
        else:
            assert converted is not None  # it is None only for in-place conversion
            return converted
    return picture.convert(mode)
