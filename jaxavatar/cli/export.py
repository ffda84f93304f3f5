"""`jaxavatar export`: one moment of an avatar as Gaussians that other programs read."""

from __future__ import annotations

import argparse
import itertools
import pathlib
import typing

from jaxavatar.cli import animate, common
from jaxavatar.errors import InputError

if typing.TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from pallas_splat import Gaussians

    from jaxavatar.cli.animate import Speech
    from jaxavatar.motion import MotionClip
    from jaxavatar.structs import Avatar, BodyPose, Drive

SUFFIXES = (".ply", ".spz", ".glb")


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="write an avatar as Gaussians for other programs",
        description="Write one moment of an avatar as 3D Gaussians: at rest, or while it speaks or"
        " moves. The name's end chooses the format: .ply (as of 3D Gaussian splatting; the photo's"
        " camera frame, y down), .spz or .glb (KHR_gaussian_splatting; both y up, the pelvis in"
        " the origin).",
    )
    parser.add_argument("avatar", type=pathlib.Path, metavar="AVATAR")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, metavar="FILE", help="the file to write"
    )
    parser.add_argument(
        "--at",
        type=float,
        metavar="SECONDS",
        help="the moment, of a speech or a motion (default: 0)",
    )
    animate.add_speaking(parser, required=False)
    animate.add_moving(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Pose the avatar and write its Gaussians."""
    target = arguments.out
    if target.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"cannot tell a format from {target}; give --out a name that ends in"
            f" {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        )
    common.check_writable(target)
    from jaxavatar.avatar_file import load_avatar

    avatar, _ = load_avatar(arguments.avatar)
    speech, motion = animate.prepare_speech(arguments), animate.prepare_motion(arguments)
    if arguments.at is not None and speech is None and motion is None:
        raise InputError("--at is for --speech, --text or --motion; leave it out without these")
    save(target, avatar, _posed(avatar, speech, motion, arguments.at or 0.0))
    print(target)


def save(target: pathlib.Path, avatar: Avatar, gaussians: Gaussians) -> None:
    """Write Gaussians in the format that the file's name asks for."""
    from jaxavatar.export import glb, ply, splats, spz

    plain = splats.make_splats(gaussians)
    if target.suffix.lower() == ".ply":
        ply.save_ply(target, plain)
        return
    write = spz.save_spz if target.suffix.lower() == ".spz" else glb.save_glb
    write(target, splats.facing_forward(plain, _pelvis(avatar)))


def _pelvis(avatar: Avatar) -> Float[np.ndarray, " 3"]:
    """Where the pelvis is at rest, world metres."""
    import numpy as np

    return np.asarray(avatar.joints[0] + avatar.rest.translation, np.float64)


def _posed(
    avatar: Avatar, speech: Speech | None, motion: MotionClip | None, seconds: float
) -> Gaussians:
    """Pose the avatar as it is at a moment of what it does, or at rest.

    Raises:
        InputError: it has stopped by then.
    """
    common.keep_compiled_code()
    import jax
    import jax.numpy as jnp

    from jaxavatar import motion as motions
    from jaxavatar.animate import pose_avatar
    from jaxavatar.drive import make_drive

    drive = None
    if speech is not None:
        common.say(["listening to the speech ..."])
        drive = make_drive(speech.samples, speech.text)
    deltas = None
    if motion is not None:
        total = None if drive is None else drive.audio.shape[0]
        motion = motions.at_video_rate(motion) if total is None else motions.lasting(motion, total)
        common.say(motion.messages)
        deltas = motions.motion_deltas(avatar, motion, "photo")
    if speech is not None and drive is not None:
        return _speaking(avatar, speech, drive, deltas, seconds)
    if deltas is None:
        deltas = jax.tree.map(lambda part: jnp.zeros_like(part)[None], avatar.rest)
    frame = _frame(seconds, len(deltas.rotations), "motion")
    moment = jax.tree.map(lambda leaf: leaf[frame : frame + 1], deltas)
    return jax.tree.map(lambda leaf: leaf[0], jax.jit(pose_avatar)(avatar, moment))


def _speaking(
    avatar: Avatar, speech: Speech, drive: Drive, deltas: BodyPose | None, seconds: float
) -> Gaussians:
    """Let the avatar speak up to a moment; the body follows a motion where there is one."""
    import jax

    from jaxavatar.animate import body_transforms
    from jaxavatar.deformer import Driver
    from jaxavatar.stream import CHUNK, stream_gaussians

    frame = _frame(seconds, drive.audio.shape[0], "speech")
    body = None if deltas is None else jax.jit(body_transforms)(avatar, deltas)
    chunks = stream_gaussians(Driver(speech.config), speech.params, avatar, drive, body=body)
    chunk = next(itertools.islice(chunks, frame // CHUNK, None))
    return jax.tree.map(lambda leaf: leaf[frame % CHUNK], chunk)


def _frame(seconds: float, total: int, name: str) -> int:
    """Return the frame of a moment."""
    from jaxavatar.structs import FPS

    if not 0 <= seconds < total / FPS:
        raise InputError(
            f"--at {seconds:g} is not within the {name}, which lasts {total / FPS:.2f} seconds"
        )
    return int(seconds * FPS)
