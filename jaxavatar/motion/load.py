"""Recognise a motion's format and read it."""

import os
import pathlib

from jaxavatar.body import load_smplx
from jaxavatar.errors import InputError
from jaxavatar.motion.clip import MotionClip
from jaxavatar.motion.json_folder import read_folder
from jaxavatar.motion.layout import Reading
from jaxavatar.motion.smplx_npz import read_npz


def load_motion(
    path: str | os.PathLike[str],
    fps: float | None = None,
    smplx: str | os.PathLike[str] | None = None,
) -> MotionClip:
    """Read body motion: a folder of LHM or PERSONA, or an `.npz` of SMPL-X parameters or AMASS.

    The formats and what is converted: `json_folder` and `smplx_npz`. The clip has the file's own
    rate; `at_video_rate` and `lasting` resample it.

    Args:
        path: file or folder.
        fps: rate of files that do not state one (30 otherwise, with a message).
        smplx: the user's SMPL-X model file, for the mean hand that some motions are relative to.

    Raises:
        InputError: it is missing or of another format, or its content cannot be used.
    """
    place = pathlib.Path(path)
    reading = Reading(fps, None if smplx is None else load_smplx(smplx))
    if place.is_dir():
        return read_folder(place, reading)
    if not place.exists():
        raise InputError(f"there is no motion at {place}; check the name")
    if place.suffix.lower() == ".npz":
        return read_npz(place, reading)
    raise InputError(
        f"{place} is no motion that can be read; give a folder of JSON files (LHM, PERSONA) or an"
        " .npz (SMPL-X, AMASS)"
    )
