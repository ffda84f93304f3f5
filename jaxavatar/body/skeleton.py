"""The 55 joints of SMPL-X: names, parents, and which of them are hands.

The order is that of the SMPL-X model files (Pavlakos et al., CVPR 2019): pelvis and 21 body
joints, jaw, left and right eye, 15 joints of the left hand, 15 of the right.
"""

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
    fingers = ("index", "middle", "pinky", "ring", "thumb")
    return tuple(
        (f"{side}_{finger}{k + 1}", wrist if k == 0 else first + 3 * f + k - 1)
        for f, finger in enumerate(fingers)
        for k in range(3)
    )


_ALL = (*_BODY, *_hand("left", 20, 25), *_hand("right", 21, 40))

JOINTS: tuple[str, ...] = tuple(name for name, _ in _ALL)
"""Joint names in SMPL-X order."""

PARENTS: tuple[int, ...] = tuple(parent for _, parent in _ALL)
"""Index of each joint's parent; -1 for the pelvis. A parent always precedes its children."""

LEFT_HAND = slice(25, 40)
RIGHT_HAND = slice(40, 55)
