"""`jaxavatar export`: an avatar as Gaussians or as a rigged mesh that other programs read."""

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
FACE_POINTS = 1500  # Gaussians that tell which face units move; all would take longer


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="write an avatar as Gaussians or as a rigged mesh for other programs",
        description="Write one moment of an avatar as 3D Gaussians: at rest, or while it speaks or"
        " moves. The name's end chooses the format: .ply (as of 3D Gaussian splatting; the photo's"
        " camera frame, y down), .spz or .glb (KHR_gaussian_splatting; both y up, the pelvis in"
        " the origin). With --mesh, write a mesh with skeleton and face units instead, which does"
        " the whole speech or motion.",
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
    parser.add_argument(
        "--mesh", action="store_true", help="a rigged mesh in place of Gaussians, .glb"
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
    if arguments.mesh and target.suffix.lower() != ".glb":
        raise InputError(f"{target} cannot hold a rigged mesh; give --out a name that ends in .glb")
    if arguments.mesh and arguments.at is not None:
        raise InputError("--at is for Gaussians; leave it out with --mesh, which holds all moments")
    common.check_writable(target)
    from jaxavatar.avatar_file import load_avatar

    avatar, _ = load_avatar(arguments.avatar)
    speech, motion = animate.prepare_speech(arguments), animate.prepare_motion(arguments)
    if arguments.at is not None and speech is None and motion is None:
        raise InputError("--at is for --speech, --text or --motion; leave it out without these")
    if arguments.mesh:
        _save_mesh(target, avatar, speech, motion)
    else:
        _save(target, avatar, _posed(avatar, speech, motion, arguments.at or 0.0))
    print(target)


def _save(target: pathlib.Path, avatar: Avatar, gaussians: Gaussians) -> None:
    """Write Gaussians in the format that the file's name asks for."""
    from jaxavatar.export import glb, ply, splats, spz

    plain = splats.make_splats(gaussians)
    if target.suffix.lower() == ".ply":
        ply.save_ply(target, plain)
        return
    write = spz.save_spz if target.suffix.lower() == ".spz" else glb.save_glb
    write(target, splats.facing_forward(plain, _pelvis(avatar)))


def _save_mesh(
    target: pathlib.Path, avatar: Avatar, speech: Speech | None, motion: MotionClip | None
) -> None:
    """Write a rigged mesh that stands at rest, or does the whole speech, motion, or both."""
    common.keep_compiled_code()
    import jax
    import numpy as np

    from jaxavatar.animate import body_transforms, delta_transforms
    from jaxavatar.export import rig, rig_glb

    drive, deltas = _listen(avatar, speech, motion)
    if speech is None or drive is None:
        transforms = np.asarray(jax.jit(delta_transforms)(avatar, deltas))
        units = np.asarray(deltas.expression)
    else:
        transforms, units = _driven(avatar, speech, drive)
        if motion is not None:
            body = np.asarray(jax.jit(body_transforms)(avatar, deltas))
            transforms = np.concatenate([body, transforms[:, body.shape[1] :]], axis=1)
    track = rig.joint_track(avatar, transforms, units)
    rig_glb.save_rig(target, rig.make_rig(avatar), track, _pelvis(avatar))


def _driven(
    avatar: Avatar, speech: Speech, drive: Drive
) -> tuple[Float[np.ndarray, "T J 7"], Float[np.ndarray, "T E"]]:
    """Run the driver over a speech; return what the joints and, as face units, the face do."""
    import jax.numpy as jnp
    import numpy as np
    from tqdm import tqdm

    from jaxavatar.deformer import Driver
    from jaxavatar.export import rig
    from jaxavatar.stream import stream_motion

    watched = jnp.arange(0, avatar.n_face, max(avatar.n_face // FACE_POINTS, 1))
    chunks = stream_motion(Driver(speech.config), speech.params, avatar, drive, index=watched)
    transforms, units = [], []
    directions = np.asarray(avatar.face_units)[np.asarray(watched)]
    with tqdm(total=drive.audio.shape[0], desc="moving", unit="frame") as bar:
        for moved in chunks:
            transforms.append(moved.transforms)
            units.append(rig.fit_units(directions, moved.shifts))
            bar.update(len(moved.transforms))
    return np.concatenate(transforms), np.concatenate(units)


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

    from jaxavatar.animate import pose_avatar

    drive, deltas = _listen(avatar, speech, motion)
    if speech is not None and drive is not None:
        return _speaking(avatar, speech, drive, None if motion is None else deltas, seconds)
    frame = _frame(seconds, len(deltas.rotations), "motion")
    moment = jax.tree.map(lambda leaf: leaf[frame : frame + 1], deltas)
    return jax.tree.map(lambda leaf: leaf[0], jax.jit(pose_avatar)(avatar, moment))


def _listen(
    avatar: Avatar, speech: Speech | None, motion: MotionClip | None
) -> tuple[Drive | None, BodyPose]:
    """Prepare what is said, and the poses of what is followed: at rest, a single one, if none."""
    import jax
    import jax.numpy as jnp

    from jaxavatar import motion as motions
    from jaxavatar.drive import make_drive

    drive = None
    if speech is not None:
        common.say(["listening to the speech ..."])
        drive = make_drive(speech.samples, speech.text)
    if motion is None:
        return drive, jax.tree.map(lambda part: jnp.zeros_like(part)[None], avatar.rest)
    total = None if drive is None else drive.audio.shape[0]
    motion = motions.at_video_rate(motion) if total is None else motions.lasting(motion, total)
    common.say(motion.messages)
    return drive, motions.motion_deltas(avatar, motion, "photo")


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
