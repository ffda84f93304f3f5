"""What the motion formats have in common: the parts of a pose, the pelvis, hands, rates."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from jaxavatar.body import JOINTS, LEFT_HAND, RIGHT_HAND, BodyModel

PARTS: Mapping[str, slice] = {
    "root": slice(0, 1),
    "body": slice(1, 22),
    "jaw": slice(22, 23),
    "left eye": slice(23, 24),
    "right eye": slice(24, 25),
    "left hand": LEFT_HAND,
    "right hand": RIGHT_HAND,
}
"""Joints of each part that the formats store under a name of its own."""

UNSTATED_FPS = 30.0  # what LHM plays its folders at, which do not state a rate

# Where the pelvis of SMPL-X's mean T-pose lies, to the centimetre: files store the pelvis's
# displacement from there. A model file of the user gives it exactly.
_PELVIS = np.array([0.0, -0.35, 0.01])


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a reader has to know beyond the file.

    Attributes:
        fps: rate of files that do not state one; None takes `UNSTATED_FPS` and says so.
        smplx: the user's SMPL-X model, for its mean hand and its pelvis; None if there is none.
    """

    fps: float | None = None
    smplx: BodyModel | None = None

    @property
    def pelvis(self) -> Float[np.ndarray, " 3"]:
        """The pelvis of SMPL-X's T-pose, canonical metres."""
        return _PELVIS if self.smplx is None else np.asarray(self.smplx.joints[0], float)

    def rate(self, stated: float | None) -> tuple[float, tuple[str, ...]]:
        """Return the frames per second, and what to tell the user about them."""
        if stated is not None:
            return stated, ()
        if self.fps is not None:
            return self.fps, ()
        return UNSTATED_FPS, (
            f"the motion does not state its rate: {UNSTATED_FPS:g} frames per second are assumed"
            " (change it with --motion-fps)",
        )

    def from_mean_hand(
        self, rotations: Float[np.ndarray, "T 55 3"]
    ) -> tuple[Float[np.ndarray, "T 55 3"], tuple[str, ...]]:
        """Make finger rotations that are relative to SMPL-X's mean hand relative to the flat one.

        As SMPL-X does, the mean is added to the axis-angle vectors. It is in the licensed model
        file: without that, rotations are taken as they are, and the message says so.
        """
        if self.smplx is None:
            return rotations, (
                "the hands of this motion are relative to SMPL-X's mean hand, which only its model"
                " file has: they are shown flatter than they are (give it with --smplx)",
            )
        rotations = rotations.copy()
        rotations[:, LEFT_HAND.start :] += np.asarray(self.smplx.hand_mean, float)
        return rotations, ()


def assembled(
    parts: Mapping[str, Float[np.ndarray, "T k"]],
) -> tuple[Float[np.ndarray, "T 55 3"], Bool[np.ndarray, " 55"]]:
    """Put the parts of a pose together; return it and which joints there are."""
    frames = len(parts["root"])
    rotations = np.zeros((frames, len(JOINTS), 3))
    present = np.zeros(len(JOINTS), bool)
    for name, values in parts.items():
        rotations[:, PARTS[name]] = values.reshape(frames, -1, 3)
        present[PARTS[name]] = True
    return rotations, present


def missing_parts(present: Bool[np.ndarray, " 55"]) -> tuple[str, ...]:
    """Say which parts of the body a motion lacks."""
    names = [name for name, joints in PARTS.items() if not present[joints].any()]
    if not names:
        return ()
    return (f"the motion has no {', no '.join(names)}: they stay as in the photo",)
