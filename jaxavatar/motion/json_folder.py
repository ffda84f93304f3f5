"""Folders with a JSON file of SMPL-X parameters per frame: LHM's layout and PERSONA's.

Both have `root_pose`, `body_pose`, `jaw_pose`, `leye_pose`, `reye_pose`, `lhand_pose`,
`rhand_pose` (axis-angle) and `trans`; `betas` are not read, because the avatar has a shape.

- LHM: `smplx_params/%05d.json`, in the camera's frame, hands relative to the flat hand, with
  `focal`, `princpt` and `img_size_wh` of the camera. `pad_ratio` is ignored, as LHM's reader does.
- PERSONA and ExAvatar: `smplx/params`, `smplx_optimized/smplx_params` or
  `smplx_optimized/smplx_params_smoothed`, hands relative to SMPL-X's mean hand, and the cameras in
  `cam_params/<frame>.json`: x_camera = R x_world + t.

`expr` holds coefficients of FLAME's expression basis, which is licensed and not here: dropped.
Neither layout states a frame rate.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxavatar.errors import InputError
from jaxavatar.motion.clip import MotionCamera, MotionClip, check
from jaxavatar.motion.layout import PARTS, Reading, assembled, missing_parts

MAX_FILES = 3000  # LHM's limit
MAX_BYTES = 4 << 20  # of one file

_PLACES = (
    "smplx_params",
    "smplx/params",
    "smplx_optimized/smplx_params_smoothed",
    "smplx_optimized/smplx_params",
    ".",
)
_KEYS = {
    "root": "root_pose",
    "body": "body_pose",
    "jaw": "jaw_pose",
    "left eye": "leye_pose",
    "right eye": "reye_pose",
    "left hand": "lhand_pose",
    "right hand": "rhand_pose",
}
_REMEDY = "give a folder of smplx_params/*.json as LHM or PERSONA have it"
_MOST_PIXELS = 1e5


def read_folder(path: pathlib.Path, reading: Reading) -> MotionClip:
    """Read a folder of either layout, given itself or the folder that the files lie in.

    Files are taken in the order of their names (of their numbers, where all names are numbers),
    at most 3000.

    Raises:
        InputError: there are no such files, one is unreadable, lacks a key that the first one
            has, or has numbers that are not finite or too few or many.
    """
    files, messages = _files(path)
    frames = [_load(file) for file in files]
    keys = {name: key for name, key in _KEYS.items() if key in frames[0]}
    for name in ("root", "body"):
        if name not in keys:
            raise InputError(f"{files[0]} has no {_KEYS[name]}; {_REMEDY}")

    def column(key: str, size: int) -> Float[np.ndarray, "T k"]:
        return _column(files, frames, key, size)

    parts = {
        name: column(key, 3 * (PARTS[name].stop - PARTS[name].start)) for name, key in keys.items()
    }
    rotations, present = assembled(parts)
    offset = column("trans", 3)
    fps, said = reading.rate(None)
    messages += said + missing_parts(present)
    if any("expr" in frame for frame in frames):
        messages += (
            "facial expressions of the motion are dropped (they need FLAME's basis); its jaw and"
            " eyes are shown",
        )
    position = offset + reading.pelvis
    if "focal" in frames[0]:
        camera = MotionCamera(column("focal", 2), column("princpt", 2), _size(files, frames))
    else:
        rotations, said = reading.from_mean_hand(rotations)
        messages += said
        rotations, position, camera, said = _seen(files, rotations, position)
        messages += said
    return check(path, MotionClip(rotations, position, present, fps, camera, messages))


def _files(path: pathlib.Path) -> tuple[list[pathlib.Path], tuple[str, ...]]:
    """Find the files of the frames, in order; say so if there are too many."""
    for place in _PLACES:
        found = list((path / place).glob("*.json"))
        if found:
            numbered = all(file.stem.isdecimal() for file in found)
            found.sort(key=lambda file: (int(file.stem) if numbered else 0, file.name))
            if len(found) > MAX_FILES:
                return found[:MAX_FILES], (
                    f"the motion has {len(found)} frames: the first {MAX_FILES} are used",
                )
            return found, ()
    raise InputError(f"there is no motion in {path}; {_REMEDY}")


def _load(file: pathlib.Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file} is larger than {MAX_BYTES >> 20} MiB; {_REMEDY}")
        frame = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}); write it again or remove it") from error
    if not isinstance(frame, dict):
        raise InputError(f"{file} is not a JSON object with root_pose and so on; {_REMEDY}")
    return frame


def _column(
    files: Sequence[pathlib.Path], frames: Sequence[dict[str, Any]], key: str, size: int
) -> Float[np.ndarray, "T k"]:
    """Return one key of all frames, `size` numbers in each."""
    rows = []
    for file, frame in zip(files, frames, strict=True):
        if key not in frame:
            raise InputError(f"{file} has no {key}; write it again or remove it")
        try:
            row = np.asarray(frame[key], float).reshape(-1)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{key} in {file} is no list of numbers; write it again") from error
        if row.size != size:
            what = " (principal components?)" if "hand" in key and row.size < size else ""
            raise InputError(
                f"{key} in {file} has {row.size} numbers{what}, not {size}; write it again,"
                " axis-angle"
            )
        rows.append(row)
    return np.stack(rows)


def _size(files: Sequence[pathlib.Path], frames: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Return (width, height) of the images, which must stay the same."""
    if "img_size_wh" in frames[0]:
        sizes = _column(files, frames, "img_size_wh", 2)
    else:
        sizes = 2 * _column(files, frames, "princpt", 2)  # LHM's renderer has centred cameras
    if not ((sizes >= 1) & (sizes <= _MOST_PIXELS)).all():
        raise InputError(f"the image size in {files[0].parent} is not in pixels; mend img_size_wh")
    if np.ptp(sizes, axis=0).max() > 1:
        raise InputError(
            f"the image size changes within {files[0].parent}; keep frames of one video only"
        )
    return round(sizes[0, 0]), round(sizes[0, 1])


def _seen(
    files: Sequence[pathlib.Path],
    rotations: Float[np.ndarray, "T 55 3"],
    position: Float[np.ndarray, "T 3"],
) -> tuple[np.ndarray, np.ndarray, MotionCamera | None, tuple[str, ...]]:
    """Bring a motion into the frames of the cameras in `cam_params`, if there are any."""
    above = list(files[0].resolve().parents)[1:3]
    roots = [folder for folder in above if (folder / "cam_params").is_dir()]
    if not roots:
        return rotations, position, None, ("the motion has no cameras: the photo's is used",)
    places = [roots[0] / "cam_params" / file.name for file in files]
    views = [_load(place) for place in places]
    extrinsic = _column(places, views, "R", 9).reshape(-1, 3, 3)
    shift = _column(places, views, "t", 3)
    spread = extrinsic @ np.swapaxes(extrinsic, 1, 2) - np.eye(3)
    if not (np.abs(spread).max() < 1e-3 and (np.linalg.det(extrinsic) > 0).all()):
        raise InputError(f"an R in {roots[0] / 'cam_params'} is no rotation matrix; mend it")
    centre = _column(places, views, "princpt", 2)
    rotations = rotations.copy()
    turned = Rotation.from_matrix(extrinsic) * Rotation.from_rotvec(rotations[:, 0])
    rotations[:, 0] = turned.as_rotvec()
    position = np.einsum("tab,tb->ta", extrinsic, position) + shift
    picture = roots[0] / "images" / f"{files[0].stem}.png"
    try:
        with Image.open(picture) as image:
            size = image.size
    except OSError:
        size = 2 * centre[0, 0], 2 * centre[0, 1]
    if not all(1 <= side <= _MOST_PIXELS for side in size):
        raise InputError(f"princpt in {places[0]} is not in pixels; mend it")
    size = round(size[0]), round(size[1])
    focal = _column(places, views, "focal", 2)
    return rotations, position, MotionCamera(focal, centre, size), ()
