"""A clip of body motion, and its resampling in time.

All formats are read into one: local joint rotations as SMPL-X has them (relative to the T-pose
with flat hands) and the pelvis in the camera frame of OpenCV (x right, y down, z forward).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation

from jaxavatar.body import JOINTS
from jaxavatar.errors import InputError
from jaxavatar.structs import FPS

MAX_FRAMES = 100_000  # 14 minutes at 120 frames per second
SLOWEST, FASTEST = 1.0, 1000.0  # frames per second that a file may claim
SETTLE = 1.0  # seconds: the end of a motion that slows down before it is held

_MOST_ANGLE = 10.0  # radians; an axis-angle vector needs at most pi
_MOST_METRES = 1000.0
_ABOUT_A_FRAME = 1.01 / FPS  # seconds
_STEP_BACK = 3.0  # metres between a camera that the file does not have and the person


@dataclasses.dataclass(frozen=True)
class MotionCamera:
    """The cameras that a motion was seen with; the pose is in their frame.

    Attributes:
        focal: focal lengths in x and y, pixels.
        centre: principal points (x, y), pixels.
        size: (width, height) of the image that these refer to.
    """

    focal: Float[np.ndarray, "T 2"]
    centre: Float[np.ndarray, "T 2"]
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class MotionClip:
    """T frames of body motion.

    Attributes:
        rotations: local joint rotations in SMPL-X's order relative to the T-pose with flat hands,
            axis-angle, radians. The pelvis's turns the canonical frame into the camera's.
        translation: where the pelvis is in the camera frame, metres (SMPL-X's `transl` plus the
            pelvis of its T-pose).
        present: which joints the file has; the others are zero here, and an avatar keeps its rest
            pose in them.
        fps: frames per second; frame t is the pose at the time t / fps.
        camera: of every frame, where the file has them.
        messages: sentences for the user: what was assumed, converted or dropped.
    """

    rotations: Float[np.ndarray, "T 55 3"]
    translation: Float[np.ndarray, "T 3"]
    present: Bool[np.ndarray, " 55"]
    fps: float
    camera: MotionCamera | None
    messages: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Time from the first frame to the last."""
        return (len(self.rotations) - 1) / self.fps

    def saying(self, message: str) -> "MotionClip":
        """Return the clip with one message more."""
        return dataclasses.replace(self, messages=(*self.messages, message))


def check(name: object, clip: MotionClip) -> MotionClip:
    """Return a clip as read from the file `name`, if its numbers can be a person's motion.

    Raises:
        InputError: it is empty, far too long, not finite, or in other units.
    """
    frames = len(clip.rotations)
    if not frames:
        raise InputError(f"the motion {name} has no frames; give one with at least one")
    if frames > MAX_FRAMES:
        raise InputError(f"the motion {name} has {frames} frames; cut it to at most {MAX_FRAMES}")
    if not SLOWEST <= clip.fps <= FASTEST:
        raise InputError(
            f"the motion {name} claims {clip.fps:g} frames per second; mend that number, it must"
            f" be {SLOWEST:g} to {FASTEST:g}"
        )
    camera = [] if clip.camera is None else [clip.camera.focal, clip.camera.centre]
    for array in (clip.rotations, clip.translation, *camera):
        bad = ~np.isfinite(array).reshape(frames, -1).all(1)
        if bad.any():
            raise InputError(
                f"the motion {name} is not finite in frame {int(bad.argmax())} (counted from 0)"
                f" and {int(bad.sum()) - 1} others; mend or remove these frames"
            )
    largest = np.linalg.norm(clip.rotations, axis=-1).max()
    if largest > _MOST_ANGLE:
        raise InputError(
            f"the motion {name} has a rotation of {largest:.0f}; axis-angle in radians is needed"
        )
    if np.abs(clip.translation).max() > _MOST_METRES:
        raise InputError(
            f"the motion {name} goes {np.abs(clip.translation).max():.0f} m far; metres are needed"
        )
    if clip.camera is not None and (clip.camera.focal <= 0).any():
        raise InputError(f"the motion {name} has a focal length that is not above zero; mend it")
    return clip


def sampled(clip: MotionClip, times: Float[np.ndarray, " S"]) -> MotionClip:
    """Return the poses at the given seconds, at the rate of video.

    Rotations are interpolated along great arcs (slerp) joint by joint, everything else linearly;
    times beyond the ends give the first and the last pose.
    """
    place = np.clip(times * clip.fps, 0, len(clip.rotations) - 1)
    # A time that rounding puts just below a frame is that frame: whole rates copy frames exactly.
    place = np.where(np.abs(place - np.round(place)) < 1e-6, np.round(place), place)
    first = np.floor(place).astype(int)
    second = np.minimum(first + 1, len(clip.rotations) - 1)
    share = (place - first)[:, None]

    def linear(array: Float[np.ndarray, "T k"]) -> Float[np.ndarray, "S k"]:
        return array[first] + share * (array[second] - array[first])

    start = Rotation.from_rotvec(clip.rotations[first].reshape(-1, 3))
    step = start.inv() * Rotation.from_rotvec(clip.rotations[second].reshape(-1, 3))
    part = np.repeat(share, len(JOINTS), axis=0) * step.as_rotvec()
    rotations = (start * Rotation.from_rotvec(part)).as_rotvec()
    camera = clip.camera
    if camera is not None:
        camera = MotionCamera(linear(camera.focal), linear(camera.centre), camera.size)
    return dataclasses.replace(
        clip,
        rotations=rotations.reshape(len(times), len(JOINTS), 3),
        translation=linear(clip.translation),
        fps=float(FPS),
        camera=camera,
    )


def at_video_rate(clip: MotionClip) -> MotionClip:
    """Resample a clip to `structs.FPS`, from its first frame to its last (see `sampled`)."""
    count = int(np.floor(clip.seconds * FPS + 1e-6)) + 1
    return sampled(clip, np.arange(count) / FPS)


def lasting(clip: MotionClip, frames: int) -> MotionClip:
    """Resample a clip to exactly `frames` frames of video, for speech of that length.

    A longer motion is cut. A shorter one slows down evenly over its last second (which takes two),
    so that it stops without a jerk, and then holds its last pose. Either adds a message, unless
    the difference is a frame or less.
    """
    times = np.arange(frames) / FPS
    end, wanted = clip.seconds, (frames - 1) / FPS
    if wanted - end > _ABOUT_A_FRAME:
        settle = min(SETTLE, end)
        late = np.clip(times - (end - settle), 0, 2 * settle)
        if settle:
            slowed = end - settle * (1 - late / (2 * settle)) ** 2
            times = np.where(times > end - settle, slowed, times)
        clip = clip.saying(
            f"the motion ({end:.1f} s) is shorter than the speech ({wanted:.1f} s): it slows down"
            " and holds its last pose"
        )
    elif end - wanted > _ABOUT_A_FRAME:
        clip = clip.saying(
            f"the motion ({end:.1f} s) is longer than the speech ({wanted:.1f} s): it is cut"
        )
    return sampled(clip, times)


def facing_camera(clip: MotionClip, up: Float[np.ndarray, " 3"]) -> MotionClip:
    """Turn a motion from an upright world into the frame of a camera that it lacks.

    Gravity points along the camera's y, the person faces the camera in the first frame, and stands
    3 m in front of it there.

    Args:
        clip: rotations and translation are in the world.
        up: the world's unit vector upwards.
    """
    forward = Rotation.from_rotvec(clip.rotations[0, 0]).apply([0, 0, 1])
    level = forward - up * (forward @ up)
    if np.linalg.norm(level) < 0.1:  # lying: towards where the head or the feet point
        above = Rotation.from_rotvec(clip.rotations[0, 0]).apply([0, 1, 0])
        level = above - up * (above @ up)
    level /= np.linalg.norm(level)
    turn = np.stack([np.cross(up, level), -up, -level])
    rotations = clip.rotations.copy()
    rotations[:, 0] = (
        Rotation.from_matrix(turn) * Rotation.from_rotvec(rotations[:, 0])
    ).as_rotvec()
    moved = (clip.translation - clip.translation[0]) @ turn.T + [0, 0, _STEP_BACK]
    return dataclasses.replace(clip, rotations=rotations, translation=moved)
