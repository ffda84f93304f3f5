"""SMPL-X parameters in `.npz` files: AMASS and the many layouts around it.

| numbers per frame in `poses` | joints |
|---|---|
| 165 | SMPL-X: pelvis, 21 body, jaw, eyes, 15 left and 15 right hand joints |
| 156 | SMPL-H: pelvis, 21 body, both hands |
| 72 | SMPL: pelvis, 21 body; its two hand joints are dropped |
| 66 | pelvis, 21 body |

or one array per part under the names of `smplx` or of AMASS. All are axis-angle. The translation
is `transl` or `trans`, the rate `mocap_frame_rate`, `mocap_framerate` or `fps`. Hands are relative
to the flat hand, unless the file says `flat_hand_mean = False`.

The world is not part of the format, so it is read from the motion: people are upright most of the
time, and where their spines point on average is up. AMASS has z up, others y; both are turned so
that the person faces the camera at first. With y down the motion is in the camera's frame already.
"""

import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from jaxavatar.errors import InputError
from jaxavatar.files import replacing
from jaxavatar.motion.clip import MotionClip, check, facing_camera
from jaxavatar.motion.layout import PARTS, Reading, assembled, missing_parts
from jaxavatar.structs import FPS

MAX_BYTES = 1 << 30  # of the arrays that are read

_POSES = {165: tuple(PARTS), 156: ("root", "body", "left hand", "right hand")}
_POSES |= {72: ("root", "body"), 66: ("root", "body")}
# Array -> the parts that it holds, one after the other.
_SEPARATE: Mapping[str, tuple[str, ...]] = {
    "global_orient": ("root",),
    "root_orient": ("root",),
    "root_pose": ("root",),
    "body_pose": ("body",),
    "pose_body": ("body",),
    "jaw_pose": ("jaw",),
    "pose_jaw": ("jaw",),
    "leye_pose": ("left eye",),
    "reye_pose": ("right eye",),
    "pose_eye": ("left eye", "right eye"),
    "left_hand_pose": ("left hand",),
    "lhand_pose": ("left hand",),
    "right_hand_pose": ("right hand",),
    "rhand_pose": ("right hand",),
    "pose_hand": ("left hand", "right hand"),
}
_TRANSLATIONS = ("transl", "trans", "translation")
_RATES = ("mocap_frame_rate", "mocap_framerate", "frame_rate", "fps")
_EXPRESSIONS = ("expression", "expressions", "expr")
_USED = ("poses", *_SEPARATE, *_TRANSLATIONS, *_RATES, "flat_hand_mean")
_WORLDS = {"z": (0.0, 0.0, 1.0), "y": (0.0, 1.0, 0.0), "-y": (0.0, -1.0, 0.0)}
# What zipfile and NumPy raise on a damaged archive.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    LookupError,
    EOFError,
    OSError,
    RuntimeError,
    OverflowError,
    MemoryError,
)


def read_npz(path: pathlib.Path, reading: Reading) -> MotionClip:
    """Read SMPL-X parameters; see the module docstring.

    Raises:
        InputError: it is no `.npz`, or arrays are missing, pickled, ragged, not finite or of
            another size (hands as principal components, for example).
    """
    arrays, names = _arrays(path)
    parts = _parts(path, arrays)
    found = [arrays[key] for key in _TRANSLATIONS if key in arrays]
    frames = len(parts["root"])
    offset = _rows(path, "translation", found[0], (3,)) if found else np.zeros((frames, 3))
    lengths = {len(values) for values in (*parts.values(), offset)}
    if len(lengths) > 1:
        raise InputError(
            f"the arrays of the motion {path} have {min(lengths)} to {max(lengths)} frames; they"
            " must have the same number"
        )
    rotations, present = assembled(parts)
    fps, messages = reading.rate(_rate(path, arrays))
    messages += missing_parts(present)
    if not found:
        messages += ("the motion has no translation: the person stays in place",)
    if any(key in names for key in _EXPRESSIONS):
        messages += (
            "facial expressions of the motion are dropped (they need FLAME's basis); its jaw and"
            " eyes are shown",
        )
    if "flat_hand_mean" in arrays and not np.all(arrays["flat_hand_mean"]):
        rotations, said = reading.from_mean_hand(rotations)
        messages += said
    clip = MotionClip(rotations, offset + reading.pelvis, present, fps, None, messages)
    return _in_camera(check(path, clip))


def save_motion(path: str | os.PathLike[str], clip: MotionClip) -> None:
    """Write a clip at the rate of video as SMPL-X parameters, in AMASS's layout.

    `poses` [T, 165] and `trans` [T, 3] are in the camera frame of OpenCV; `betas` are zero. What
    `read_npz` gives of it is the clip again.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            poses=clip.rotations.reshape(len(clip.rotations), -1).astype(np.float32),
            trans=(clip.translation - Reading().pelvis).astype(np.float32),
            betas=np.zeros(10, np.float32),
            gender=np.array("neutral"),
            surface_model_type=np.array("smplx"),
            flat_hand_mean=np.array(True),
            mocap_frame_rate=np.array(FPS, np.float64),
        )


def _arrays(path: pathlib.Path) -> tuple[dict[str, np.ndarray], set[str]]:
    """Read the arrays that are used; return also the names of all."""
    remedy = "give SMPL-X parameters as an .npz of plain arrays"
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {e.filename.removesuffix(".npy"): e.file_size for e in archive.infolist()}
    except OSError as error:
        raise InputError(f"cannot read the motion {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise InputError(f"the motion {path} is not an .npz file; {remedy}") from error
    used = [key for key in _USED if key in sizes]
    if sum(sizes[key] for key in used) > MAX_BYTES:
        raise InputError(f"the motion {path} holds more than {MAX_BYTES >> 20} MiB; cut it")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: np.asarray(file[key]) for key in used}
    except _DAMAGE as error:
        raise InputError(f"the motion {path} is damaged, or pickled; {remedy}") from error
    for key, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise InputError(f"{key} in the motion {path} is no array of numbers; {remedy}")
    return arrays, set(sizes)


def _parts(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray]
) -> dict[str, Float[np.ndarray, "T k"]]:
    """Cut the pose into parts."""
    if "poses" in arrays:
        rows = _rows(path, "poses", arrays["poses"], tuple(_POSES))
        held = {"poses": _POSES[rows.shape[1]]}
        arrays = {"poses": rows}
    else:
        held = {key: _SEPARATE[key] for key in arrays if key in _SEPARATE}
    parts: dict[str, np.ndarray] = {}
    for key, names in held.items():
        widths = [3 * (PARTS[name].stop - PARTS[name].start) for name in names]
        total = sum(widths)
        allowed = (total, 69) if names == ("body",) else (total,)  # SMPL's body has hands
        rows = arrays[key] if key == "poses" else _rows(path, key, arrays[key], allowed)
        stops = np.cumsum(widths)
        for name, width, stop in zip(names, widths, stops, strict=True):
            parts[name] = rows[:, stop - width : stop]
    missing = [name for name in ("root", "body") if name not in parts]
    if missing:
        raise InputError(
            f"the motion {path} lacks the pose of the {' and the '.join(missing)}; it needs poses,"
            " or global_orient and body_pose"
        )
    return parts


def _rows(
    path: pathlib.Path, key: str, array: np.ndarray, widths: tuple[int, ...]
) -> Float[np.ndarray, "T k"]:
    """Return an array as frames of `k` numbers, one of `widths`."""
    rows = array.reshape(len(array), -1) if array.ndim > 1 and len(array) else array.reshape(1, -1)
    if array.size == 0:
        raise InputError(f"the motion {path} has no frames; give one with at least one")
    if rows.shape[1] not in widths:
        what = " (principal components?)" if "hand" in key and rows.shape[1] < 45 else ""
        wanted = " or ".join(map(str, widths))
        raise InputError(
            f"{key} in the motion {path} has {rows.shape[1]} numbers per frame{what}; save it with"
            f" {wanted}, axis-angle (for hands: use_pca=False)"
        )
    return rows.astype(np.float64)


def _rate(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> float | None:
    stated = [arrays[key] for key in _RATES if key in arrays]
    if not stated:
        return None
    if stated[0].size != 1 or not np.isfinite(stated[0]).all():
        raise InputError(f"the frame rate in the motion {path} is not one number; mend it")
    return float(stated[0].reshape(()))


def _in_camera(clip: MotionClip) -> MotionClip:
    """Bring the motion into the camera's frame, from the world that the spines tell."""
    spine = Rotation.from_rotvec(clip.rotations[:, 0]).apply([0, 1, 0]).mean(0)
    name = max(_WORLDS, key=lambda name: float(spine @ _WORLDS[name]))
    if name == "-y":
        return clip
    clip = clip.saying(
        f"the motion's world has {name} up: it is turned so that the person faces the camera at"
        " first"
    )
    return facing_camera(clip, np.array(_WORLDS[name]))
