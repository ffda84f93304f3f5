"""A picture of a loss over steps, drawn without a plotting library."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw

_SIZE = (640, 360)
_MARGIN = 50
_INK, _GRID, _LINE = (60, 60, 60), (220, 220, 220), (30, 90, 200)


def draw_curve(steps: Sequence[float], values: Sequence[float]) -> PIL.Image.Image:
    """Plot positive values over at least two steps, on a logarithmic axis with decade lines."""
    heights = np.log10(np.maximum(np.asarray(values, float), 1e-12))
    low, high = np.floor(heights.min()), np.ceil(heights.max())
    high = max(high, low + 1)
    picture = PIL.Image.new("RGB", _SIZE, "white")
    pen = PIL.ImageDraw.Draw(picture)
    width, height = (side - 2 * _MARGIN for side in _SIZE)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - steps[0]) / max(steps[-1] - steps[0], 1e-9)
        return _MARGIN + across * width, _MARGIN + (high - y) / (high - low) * height

    for decade in np.arange(low, high + 1):
        left, y = place(steps[0], decade)
        pen.line([(left, y), (left + width, y)], fill=_GRID)
        pen.text((4, y - 6), f"{10.0**decade:g}", fill=_INK)
    for step in (steps[0], steps[-1]):
        x, y = place(step, low)
        pen.text((x - 12, y + 8), f"{step:g}", fill=_INK)
    pen.line([place(x, y) for x, y in zip(steps, heights, strict=True)], fill=_LINE, width=2)
    return picture
