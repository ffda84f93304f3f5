"""Procedural motion of a speaker: a rule for every curve, and each rule a function of the sound.

The mouth follows the timed speech sounds. Everything else follows `prosody` of at most 0.6 s around
a frame, or the time itself (breathing, slow drift, the regular blinks), so that a model which hears
the sound around a frame and knows its time can learn all of it. In pauses the body is still but
for breath and blinks.

Rotations are about the axes of the T-pose (x to the person's left, y up, z forward), which every
joint carries along: +x nods the head down, +y turns it to its left, and since the arms of the
T-pose lie along x, mirrored rotations of left and right change the signs of y and z.
"""

import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

from jaxavatar.body.skeleton import JOINTS, LEFT_HAND, RIGHT_HAND
from jaxavatar.speech import prosody
from jaxavatar.speech.visemes import FACE_UNITS, face_curves
from jaxavatar.structs import FPS, BodyPose, Phone

# Idle motion repeats with the clock of the deformer (`DriverConfig.periods`), so it can be learned.
_BREATH = 4.0  # seconds
_BLINK_EVERY = 4.0
_DRIFT = 8.0
_BLINK = np.array([0.35, 0.9, 1.0, 0.7, 0.35, 0.1])  # lids shut fast and open slowly

# Degrees at full strength; the order of the axes is x, y, z, signs for the left side.
_LIFT = {"shoulder": (0.0, -2.0, 1.0), "elbow": (0.0, -5.0, 0.0), "wrist": (0.0, 0.0, 2.0)}
_BEAT = {"shoulder": (0.0, -2.5, 1.5), "elbow": (2.0, -6.0, 0.0), "wrist": (-3.0, 0.0, 6.0)}
_FINGER_BEAT = 5.0


def procedural_motion(
    samples: Float[np.ndarray, " S"], phones: tuple[Phone, ...], seed: int, start: int = 0
) -> BodyPose:
    """Make the motion of a clip from its sound.

    Args:
        samples: 16 kHz mono at `sound.SPEECH_LEVEL`.
        phones: the speech sounds in it, as `voice.speak` returns them.
        seed: the speaker's manner: which hand leads and how large the gestures are.
        start: frame number of the first frame, for motion that follows the clock.

    Returns:
        A clip of T = ceil(S / 640) frames at 25 fps, relative to any rest pose: `rotations` are
        composed after the local rest rotations (rest · delta), at most about 12 degrees;
        `translation` [m] and `expression` are added. The jaw joint does not move: `jawOpen` does
        that, teeth and tongue included.
    """
    sound = prosody.analyse(samples)
    count = len(sound.energy)
    time = (start + np.arange(count)) / FPS
    manner = np.random.default_rng(seed)
    size = manner.uniform(0.85, 1.15)
    lead = manner.uniform(0.35, 0.65)

    speaking = np.where(sound.pause, 0, sound.energy)
    flow = _smooth(speaking, 0.24)
    beat = _beats(sound.stress)
    rotations = np.zeros((count, len(JOINTS), 3))
    _move_head(rotations, time, flow, sound, size)
    for side, sign, share in (("left", 1, lead), ("right", -1, 1 - lead)):
        _move_arm(rotations, side, sign, 2 * size * share * beat, size * flow)
    _breathe(rotations, time)

    expression = face_curves(phones, count).astype(float)
    _move_brows(expression, sound.stress)
    _blink(expression, time, sound.pause)
    return BodyPose(
        rotations=jnp.asarray(np.deg2rad(rotations), jnp.float32),
        translation=jnp.asarray(_sway(time, flow), jnp.float32),
        expression=jnp.asarray(np.clip(expression, 0, 1), jnp.float32),
    )


def _smooth(curve: Float[np.ndarray, " T"], sigma: float) -> Float[np.ndarray, " T"]:
    """Smooth with a Gaussian of `sigma` seconds, cut at 2.5 sigma."""
    return scipy.ndimage.gaussian_filter1d(curve, sigma * FPS, mode="constant", truncate=2.5)


def _bumps(
    impulses: Float[np.ndarray, " T"], sigma: float, delay: float = 0.0
) -> Float[np.ndarray, " T"]:
    """Put a bump of height 1 (times the impulse) `delay` seconds after each impulse."""
    shift = round(delay * FPS)
    moved = scipy.ndimage.shift(impulses, shift, order=0, mode="constant")
    return _smooth(moved, sigma) * sigma * FPS * np.sqrt(2 * np.pi)


def _beats(stress: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Return the beat gesture: the hand rises before a stress and strikes on it."""
    return _bumps(stress, 0.1, -0.12) - 0.6 * _bumps(stress, 0.1, 0.08)


def _move_head(
    rotations: Float[np.ndarray, "T J 3"],
    time: Float[np.ndarray, " T"],
    flow: Float[np.ndarray, " T"],
    sound: prosody.Prosody,
    size: float,
) -> None:
    """Nod on stresses, lift with the pitch, drift while speaking; the eyes stay on the viewer."""
    voiced = np.where(sound.pitch > 0, 1.0, 0.0)
    weight = _smooth(voiced, 0.12)
    # Octaves above a middle voice, weighted by how much voice there is.
    octaves = np.log2(np.maximum(sound.pitch, 1) / 150) * voiced
    pitch = np.clip(_smooth(octaves, 0.12) / np.maximum(weight, 0.2), -1, 1)
    nod = size * (5 * _bumps(sound.stress, 0.1, 0.04) - 1.2 * pitch)
    turn = size * flow * 6 * np.sin(2 * np.pi * time / _DRIFT)
    tilt = size * flow * 3 * np.sin(4 * np.pi * time / _DRIFT + 1)
    whole = np.stack([nod, turn, tilt], 1)
    rotations[:, JOINTS.index("neck")] += 0.4 * whole
    rotations[:, JOINTS.index("head")] += 0.6 * whole
    rotations[:, JOINTS.index("spine3")] += 0.15 * whole
    for eye in ("left_eye", "right_eye"):
        rotations[:, JOINTS.index(eye)] -= 0.9 * whole * [1, 1, 0]


def _move_arm(
    rotations: Float[np.ndarray, "T J 3"],
    side: str,
    sign: int,
    beat: Float[np.ndarray, " T"],
    flow: Float[np.ndarray, " T"],
) -> None:
    """Hold the arm a little higher while speaking, and beat with it."""
    mirror = np.array([1, sign, sign])
    for joint in _LIFT:
        held, struck = np.array(_LIFT[joint]), np.array(_BEAT[joint])
        moved = flow[:, None] * held + beat[:, None] * struck
        rotations[:, JOINTS.index(f"{side}_{joint}")] += moved * mirror
    # Fingers open as the hand rises; the thumb's own axes differ, it stays.
    fingers = LEFT_HAND if side == "left" else RIGHT_HAND
    curling = slice(fingers.start, fingers.stop - 3)
    rotations[:, curling, 2] += sign * (_FINGER_BEAT * beat + 2 * flow)[:, None]


def _breathe(rotations: Float[np.ndarray, "T J 3"], time: Float[np.ndarray, " T"]) -> None:
    breath = np.sin(2 * np.pi * time / _BREATH)
    rotations[:, JOINTS.index("spine2"), 0] -= 0.35 * breath
    rotations[:, JOINTS.index("neck"), 0] += 0.3 * breath
    rotations[:, JOINTS.index("left_collar"), 2] += 0.5 * breath
    rotations[:, JOINTS.index("right_collar"), 2] -= 0.5 * breath


def _sway(time: Float[np.ndarray, " T"], flow: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 3"]:
    """Shift the weight by some millimetres while speaking."""
    sideways = 0.004 * flow * np.sin(2 * np.pi * time / _DRIFT + 2)
    forward = -0.003 * flow  # towards the camera
    return np.stack([sideways, np.zeros_like(time), forward], 1)


def _move_brows(expression: Float[np.ndarray, "T E"], stress: Float[np.ndarray, " T"]) -> None:
    raised = _bumps(stress, 0.12)
    for name, most in (
        ("browInnerUp", 0.3),
        ("browOuterUpLeft", 0.25),
        ("browOuterUpRight", 0.25),
    ):
        expression[:, FACE_UNITS.index(name)] += most * np.minimum(raised, 1)


def _blink(
    expression: Float[np.ndarray, "T E"],
    time: Float[np.ndarray, " T"],
    pause: Bool[np.ndarray, " T"],
) -> None:
    """Blink where a pause begins, and at regular times."""
    count = len(pause)
    starts = np.flatnonzero(np.diff(pause.astype(int), prepend=1) > 0)
    clock = np.round((time - _BLINK_EVERY / 2) * FPS).astype(int)
    regular = np.flatnonzero(clock % round(_BLINK_EVERY * FPS) == 0)
    lids = np.zeros(count + len(_BLINK))
    for start in (*starts, *regular):
        place = slice(start, start + len(_BLINK))
        lids[place] = np.maximum(lids[place], _BLINK)
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        expression[:, FACE_UNITS.index(name)] = lids[:count]
