"""Draw what perception found onto the photo."""

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from jaxavatar.structs import Findings

_BONES = ((11, 12), (11, 13), (13, 15), (12, 14), (14, 16), (11, 23), (12, 24), (23, 24))
_BONES += ((23, 25), (25, 27), (24, 26), (26, 28))
_FINGERS = tuple((4 * f + k, 4 * f + k + 1) for f in range(5) for k in range(1, 4))
_PALM = ((0, 1), (0, 5), (5, 9), (9, 13), (13, 17), (17, 0))
_SEEN = 0.5
_DIM = 0.35


def draw_findings(
    photo: Float[np.ndarray, "H W 3"], findings: Findings
) -> Float[np.ndarray, "H W 3"]:
    """Return the photo, dimmed outside the matte, with landmarks of body, face and hands.

    Args:
        photo: [0, 1].
        findings: of this photo.
    """
    shown = photo * (_DIM + (1 - _DIM) * findings.matte[..., None])
    picture = Image.fromarray((shown.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    unit = max(1, max(picture.size) // 400)
    pose = findings.pose
    for a, b in _BONES:
        if min(pose.visibility[a], pose.visibility[b]) > _SEEN:
            _line(draw, pose.points[a], pose.points[b], "orange", 2 * unit)
    for hand in (findings.left_hand, findings.right_hand):
        if hand is not None:
            for a, b in _FINGERS + _PALM:
                _line(draw, hand.points[a], hand.points[b], "cyan", unit)
    if findings.face is not None:
        for x, y in findings.face.points:
            draw.ellipse((x - unit / 2, y - unit / 2, x + unit / 2, y + unit / 2), fill="lime")
    return np.asarray(picture, np.float32) / 255


def _line(draw: ImageDraw.ImageDraw, a: np.ndarray, b: np.ndarray, color: str, width: int) -> None:
    draw.line([(float(a[0]), float(a[1])), (float(b[0]), float(b[1]))], fill=color, width=width)
