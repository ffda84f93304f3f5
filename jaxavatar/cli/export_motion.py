"""`jaxavatar export-motion`: what the driver does to an avatar, as SMPL-X parameters."""

from __future__ import annotations

import argparse
import pathlib
import typing

from jaxavatar.cli import animate, common
from jaxavatar.errors import InputError

if typing.TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from jaxavatar.cli.animate import Speech
    from jaxavatar.motion import MotionClip
    from jaxavatar.structs import Avatar


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export-motion",
        help="write the motion of a speech as SMPL-X parameters",
        description="Let an avatar speak, and write its joint rotations as SMPL-X parameters"
        " (.npz, 25 frames per second, camera frame with y down). `animate --motion` reads them.",
    )
    parser.add_argument("avatar", type=pathlib.Path, metavar="AVATAR")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, metavar="NPZ", help="the file to write"
    )
    animate.add_speaking(parser, required=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Let the avatar speak and write its motion."""
    target = arguments.out
    if target.suffix.lower() != ".npz":
        raise InputError(f"cannot write motion to {target}; give --out a name that ends in .npz")
    common.check_writable(target)
    from jaxavatar.avatar_file import load_avatar
    from jaxavatar.motion import save_motion

    avatar, _ = load_avatar(arguments.avatar)
    speech = animate.prepare_speech(arguments)
    assert speech is not None  # the parser requires it
    clip, error = _motion(avatar, speech)
    save_motion(target, clip)
    typical, largest = 1000 * (error**2).mean() ** 0.5, 1000 * error.max()
    common.say(
        [
            f"joints are off by {typical:.1f} mm (root mean square), {largest:.1f} mm at most,"
            " because SMPL-X's only rotate; of the face, the jaw's angle and the eyes are kept"
        ]
    )
    print(target)


def _motion(avatar: Avatar, speech: Speech) -> tuple[MotionClip, Float[np.ndarray, "T M"]]:
    """Run the driver over the speech; return `motion.driven_clip` of it."""
    common.keep_compiled_code()
    import numpy as np
    from tqdm import tqdm

    from jaxavatar.deformer import Driver
    from jaxavatar.drive import make_drive
    from jaxavatar.motion import driven_clip
    from jaxavatar.stream import stream_motion

    common.say(["listening to the speech ..."])
    drive = make_drive(speech.samples, speech.text)
    transforms, landmarks = [], []
    with tqdm(total=drive.audio.shape[0], desc="moving", unit="frame") as bar:
        for moved in stream_motion(Driver(speech.config), speech.params, avatar, drive):
            transforms.append(moved.transforms)
            landmarks.append(moved.points)
            bar.update(len(moved.transforms))
    return driven_clip(avatar, np.concatenate(transforms), np.concatenate(landmarks))
