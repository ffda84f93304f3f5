"""The picture of `evaluate`: true and predicted frames side by side, and bars."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from experiments.evaluate.table import Row
from experiments.evaluate.watching import Watched
from jaxavatar.export.picture import INK, PAPER, save_picture

_HEIGHT, _GAP, _MOST = 320, 8, 6  # pixels of a row, pixels between, videos shown
_OURS, _TRUE = (0, 114, 178), (170, 170, 170)
_LINE, _LABEL, _BAR = 22, 270, 240


def draw_sheet(
    path: str | os.PathLike[str], videos: Sequence[Watched], rows: Sequence[Row]
) -> None:
    """Write a row of pairs (true, predicted) per video, six at most, and a bar per value.

    A bar's full length is the larger of the row's two values, the true one grey; without a true
    value, of the value and 1.

    Raises:
        InputError: the file cannot be written.
    """
    parts = [_strip(video) for video in videos[:_MOST]]
    parts.append(_bars([row for row in rows if row.value is not None]))
    wide = max(part.shape[1] for part in parts)
    save_picture(path, np.concatenate([_widened(part, wide) for part in parts]))


def _widened(part: UInt8[np.ndarray, "H w 3"], wide: int) -> UInt8[np.ndarray, "H W 3"]:
    room = ((0, _GAP), (0, wide - part.shape[1]), (0, 0))
    return np.pad(part, room, constant_values=PAPER[0])


def _strip(video: Watched) -> UInt8[np.ndarray, "H W 3"]:
    pictures = [Image.fromarray(frame) for frame in video.shown]
    sized = [p.resize((round(p.width * _HEIGHT / p.height), _HEIGHT)) for p in pictures]
    shown = [_widened(np.asarray(p), p.width + _GAP) for p in sized]
    return np.concatenate(shown, axis=1)


def _bars(rows: Sequence[Row]) -> UInt8[np.ndarray, "H W 3"]:
    picture = Image.new("RGB", (_LABEL + _BAR + 160, _LINE * len(rows) + _GAP), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    for number, row in enumerate(rows):
        assert row.value is not None
        top = _GAP + number * _LINE
        draw.text((_GAP, top), row.name, INK, font)
        full = max(abs(row.value), 1.0 if row.true is None else abs(row.true)) or 1.0
        for value, colour, low in ((row.value, _OURS, 1), (row.true, _TRUE, 9)):
            if value is not None:
                right = _LABEL + round(_BAR * abs(value) / full)
                draw.rectangle((_LABEL, top + low, right, top + low + 6), fill=colour)
        said = f"{row.value:.4g}" + (f" (true {row.true:.4g})" if row.true is not None else "")
        draw.text((_LABEL + _BAR + _GAP, top), said, INK, font)
    return np.asarray(picture)
