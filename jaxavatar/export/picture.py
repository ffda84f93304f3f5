"""Write pictures, and labelled panels of pictures, as PNG files."""

import math
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxavatar.files import replacing

Picture = (
    UInt8[np.ndarray, "H W 3"]
    | Float[np.ndarray | Array, "H W 3"]
    | UInt8[np.ndarray, "H W"]
    | Float[np.ndarray | Array, "H W"]
)

MARGIN = 8
LABEL_HEIGHT = 22
PAPER, INK = (255, 255, 255), (40, 40, 40)


def save_picture(path: str | os.PathLike[str], picture: Picture) -> None:
    """Write one picture, uint8 or float in [0, 1], grey or RGB, as PNG.

    Raises:
        InputError: the file cannot be written.
    """
    _save(path, Image.fromarray(to_bytes(picture)))


def save_panels(
    path: str | os.PathLike[str],
    panels: Mapping[str, Picture],
    height: int = 360,
    columns: int | None = None,
) -> None:
    """Write pictures side by side, each with its key as the label above it, as one PNG.

    Args:
        path: of the PNG file.
        panels: label to picture; sizes may differ.
        height: of every panel, pixels; widths follow the pictures' proportions.
        columns: panels per row; None makes the sheet about as wide as high.

    Raises:
        InputError: the file cannot be written.
    """
    _save(path, _sheet(panels, height, columns or math.ceil(math.sqrt(len(panels)))))


def _sheet(panels: Mapping[str, Picture], height: int, columns: int) -> Image.Image:
    """Lay the panels out in rows, each column as wide as its widest panel."""
    pictures = [_fit(Image.fromarray(to_bytes(p)).convert("RGB"), height) for p in panels.values()]
    widths = [max(p.width for p in pictures[i::columns]) for i in range(min(columns, len(panels)))]
    rows = math.ceil(len(pictures) / columns)
    step = LABEL_HEIGHT + height + MARGIN
    sheet = Image.new("RGB", (sum(widths) + MARGIN * (len(widths) + 1), rows * step), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for index, (label, picture) in enumerate(zip(panels, pictures, strict=True)):
        row, column = divmod(index, columns)
        x, y = MARGIN + sum(widths[:column]) + MARGIN * column, row * step
        draw.text((x, y + LABEL_HEIGHT // 2), label, INK, font, anchor="lm")
        sheet.paste(picture, (x, y + LABEL_HEIGHT))
    return sheet


def _fit(picture: Image.Image, height: int) -> Image.Image:
    width = max(1, round(picture.width * height / picture.height))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def to_bytes(picture: Float[np.ndarray | Array, "..."] | UInt8[np.ndarray, "..."]) -> np.ndarray:
    """Return numbers in [0, 1] as bytes, and bytes as they are; what is outside is clipped."""
    pixels = np.asarray(picture)
    if pixels.dtype == np.uint8:
        return pixels
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _save(path: str | os.PathLike[str], image: Image.Image) -> None:
    with replacing(path) as temporary:
        image.save(temporary, "PNG")
