"""Names: the 55 joints of SMPL-X with their parents, vertex groups, regions, landmarks.

The order is that of the SMPL-X model files (Pavlakos et al., CVPR 2019): pelvis and 21 body
joints, jaw, left and right eye, 15 joints of the left hand, 15 of the right. Left and right are
the person's own everywhere.
"""

FINGERS = ("index", "middle", "pinky", "ring", "thumb")
"""Fingers in the order of SMPL-X's hand joints."""

_BODY = (
    ("pelvis", -1),
    ("left_hip", 0),
    ("right_hip", 0),
    ("spine1", 0),
    ("left_knee", 1),
    ("right_knee", 2),
    ("spine2", 3),
    ("left_ankle", 4),
    ("right_ankle", 5),
    ("spine3", 6),
    ("left_foot", 7),
    ("right_foot", 8),
    ("neck", 9),
    ("left_collar", 9),
    ("right_collar", 9),
    ("head", 12),
    ("left_shoulder", 13),
    ("right_shoulder", 14),
    ("left_elbow", 16),
    ("right_elbow", 17),
    ("left_wrist", 18),
    ("right_wrist", 19),
    ("jaw", 15),
    ("left_eye", 15),
    ("right_eye", 15),
)


def _hand(side: str, wrist: int, first: int) -> tuple[tuple[str, int], ...]:
    """List the 15 finger joints of one hand, three per finger from the knuckle outwards."""
    return tuple(
        (f"{side}_{finger}{k + 1}", wrist if k == 0 else first + 3 * f + k - 1)
        for f, finger in enumerate(FINGERS)
        for k in range(3)
    )


_ALL = (*_BODY, *_hand("left", 20, 25), *_hand("right", 21, 40))

JOINTS: tuple[str, ...] = tuple(name for name, _ in _ALL)
"""Joint names in SMPL-X order."""

PARENTS: tuple[int, ...] = tuple(parent for _, parent in _ALL)
"""Index of each joint's parent; -1 for the pelvis. A parent always precedes its children."""

LEFT_HAND = slice(25, 40)
RIGHT_HAND = slice(40, 55)

VERTEX_GROUPS = ("body", "left_eye", "right_eye", "upper_teeth", "lower_teeth", "tongue")
"""The connected parts of the template; "body" is the skin."""

REGIONS = ("body", "face", "hand")
"""Parts with networks of their own: `BodyModel.region` indexes this."""

LANDMARKS: tuple[str, ...] = (
    "mouth_left",
    "mouth_right",
    "upper_lip",
    "upper_lip_inner",
    "lower_lip_inner",
    "lower_lip",
    "nose_tip",
    "chin",
    *(
        f"{side}_{part}"
        for side in ("left", "right")
        for part in ("eye_outer", "eye_inner", "eye_upper", "eye_lower", "brow_inner", "brow_outer")
    ),
    *(f"{side}_{finger}_tip" for side in ("left", "right") for finger in FINGERS),
)
"""Points that keypoint losses and lip metrics look at; `BodyModel.landmarks` gives vertices."""
