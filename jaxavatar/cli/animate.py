"""`jaxavatar animate`: an avatar and a voice, a motion or both to a video."""

from __future__ import annotations

import argparse
import dataclasses
import io
import pathlib
import typing

from jaxavatar.cli import common
from jaxavatar.errors import InputError

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from jaxtyping import Array, Float
    from pallas_splat import Camera

    from jaxavatar.deformer import DriverConfig
    from jaxavatar.motion import MotionClip
    from jaxavatar.structs import Avatar, BodyPose, Drive, Frames

    Background = Float[np.ndarray, "H W 3"] | Float[np.ndarray, " 3"]  # sRGB in [0, 1]


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "animate",
        help="let an avatar speak or move, as a video",
        description="Let an avatar speak, follow a recorded motion, or both (the body from the"
        " motion, face and hands from the speech), and write a video.",
    )
    parser.add_argument("avatar", type=pathlib.Path, metavar="AVATAR")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        required=True,
        metavar="FILE|DIR",
        help="the video to write, .mp4 or .webm, or a folder for pictures",
    )
    add_options(parser, required=False)
    parser.set_defaults(run=run, refuse=parser.error)


def add_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the options of speaking, which may be required, of moving and of watching."""
    add_speaking(parser, required)
    add_moving(parser)
    group = parser.add_argument_group("watching")
    group.add_argument(
        "--size",
        type=common.positive,
        default=512,
        metavar="PX",
        help="longer side of the video (default: %(default)s)",
    )
    group.add_argument(
        "--background",
        default="white",
        metavar="COLOUR|IMAGE",
        help='a name, "#rrggbb", a picture, scaled to cover, or none: the video is transparent'
        " (default: %(default)s)",
    )
    group.add_argument(
        "--camera",
        choices=("front", "orbit", "motion"),
        default="front",
        help="as in the photo, swinging around the person, or the motion's own"
        " (default: %(default)s)",
    )


def add_speaking(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the options of speaking."""
    group = parser.add_argument_group("speaking")
    speech = group.add_mutually_exclusive_group(required=required)
    speech.add_argument(
        "--speech", type=pathlib.Path, metavar="FILE", help="recorded speech (WAV, MP3, M4A ...)"
    )
    speech.add_argument("--text", help="words to say with a synthetic voice")
    group.add_argument("--voice", help="voice for --text, of flite (default: slt) or espeak:NAME")
    group.add_argument(
        "--driver",
        type=pathlib.Path,
        metavar="FILE",
        help="motion network other than the avatar's own or the packaged",
    )


def add_moving(parser: argparse.ArgumentParser) -> None:
    """Add the options of moving."""
    group = parser.add_argument_group("moving")
    group.add_argument(
        "--motion",
        type=pathlib.Path,
        metavar="FILE|DIR",
        help="body motion: an .npz of SMPL-X or AMASS, a folder of LHM or PERSONA",
    )
    group.add_argument(
        "--motion-fps",
        type=common.positive,
        metavar="N",
        help="frames per second of a motion that does not state them (default: 30)",
    )
    group.add_argument(
        "--smplx",
        type=pathlib.Path,
        metavar="NPZ",
        help="your SMPL-X model file, for motions relative to its mean hand",
    )


@dataclasses.dataclass(frozen=True)
class Speech:
    """What is spoken, by which motion network."""

    samples: Float[np.ndarray, " S"]
    text: str | None
    params: dict[str, typing.Any]
    config: DriverConfig


@dataclasses.dataclass(frozen=True)
class Performance:
    """What is spoken and which motion is followed (one of them at least), before what, if any."""

    speech: Speech | None
    motion: MotionClip | None
    background: Background | None


def run(arguments: argparse.Namespace) -> None:
    """Let the avatar speak or move and write the video."""
    if arguments.speech is None and arguments.text is None and arguments.motion is None:
        arguments.refuse("give the avatar something to do: --speech, --text or --motion")
    target = common.video_file(arguments.out)
    from jaxavatar.avatar_file import load_avatar

    avatar, _ = load_avatar(arguments.avatar)
    render(avatar, prepare(arguments), arguments, target)
    print(target)


def prepare(arguments: argparse.Namespace) -> Performance:
    """Read everything that the options name, so that mistakes show before the long work.

    Raises:
        InputError: one of them cannot be used.
    """
    motion = prepare_motion(arguments)
    background = _background(arguments.background)
    if background is None and arguments.out.suffix.lower() == ".mp4":
        raise InputError(
            f"{arguments.out} cannot be transparent; give --out a name that ends in .webm, or a"
            " folder's, or another --background"
        )
    return Performance(prepare_speech(arguments), motion, background)


def prepare_speech(arguments: argparse.Namespace) -> Speech | None:
    """Read the speech and the motion network, or speak the text; None if there is neither.

    Raises:
        InputError: one of them cannot be used.
    """
    if arguments.voice and arguments.text is None:
        raise InputError("--voice is for --text; leave it out without that")
    from jaxavatar.speech import sound, voice

    if arguments.text is not None:
        samples, _ = voice.speak(arguments.text, arguments.voice or voice.FLITE_VOICES[0])
    elif arguments.speech is not None:
        samples = sound.load(arguments.speech)
    elif arguments.driver is not None:
        raise InputError("--driver is for --speech or --text; leave it out without these")
    else:
        return None
    return Speech(samples, arguments.text, *_driver(arguments))


def _driver(arguments: argparse.Namespace) -> tuple[dict[str, typing.Any], DriverConfig]:
    """Load the network that is named, else the one trained for the avatar, else the packaged."""
    from jaxavatar.avatar_file import load_driver
    from jaxavatar.deformer import load_params
    from jaxavatar.deformer.weights_file import PACKAGED

    if arguments.driver is not None:
        return load_params(arguments.driver)
    avatar = getattr(arguments, "avatar", None)  # `talk` has a photo instead
    own = None if avatar is None else load_driver(avatar)
    return load_params(PACKAGED if own is None else io.BytesIO(own))


def render(
    avatar: Avatar,
    performance: Performance,
    arguments: argparse.Namespace,
    target: pathlib.Path,
) -> None:
    """Render the video, chunk by chunk, and write it.

    Raises:
        InputError: it cannot be written.
    """
    common.keep_compiled_code()
    import jax.numpy as jnp
    import numpy as np
    from tqdm import tqdm

    from jaxavatar import motion as motions
    from jaxavatar import views
    from jaxavatar.drive import make_drive
    from jaxavatar.export.sequence import SequenceWriter
    from jaxavatar.export.video import VideoWriter

    speech, motion = performance.speech, performance.motion
    drive, samples, total = None, None, 0
    if speech is not None:
        common.say(["listening to the speech ..."])
        drive, samples = make_drive(speech.samples, speech.text), speech.samples
        total = drive.audio.shape[0]
    if motion is not None:
        motion = motions.lasting(motion, total) if total else motions.at_video_rate(motion)
        common.say(motion.messages)
        total = len(motion.rotations)
    if motion is not None and arguments.camera == "motion":
        camera = motions.motion_camera(motion, arguments.size)
    elif arguments.camera == "orbit":
        camera = views.orbit(avatar, arguments.size, total)
    else:
        camera = views.photo_camera(avatar, arguments.size)
    transparent = performance.background is None
    behind = np.zeros(3) if performance.background is None else performance.background
    background = jnp.asarray(_covering(behind, camera.height, camera.width), jnp.float32)
    deltas = None
    if motion is not None:
        placement = "camera" if arguments.camera == "motion" else "photo"
        deltas = motions.motion_deltas(avatar, motion, placement)
    chunks = _chunks(avatar, speech, drive, deltas, camera, background)
    writer = SequenceWriter if common.is_sequence(target) else VideoWriter
    with (
        writer(target, samples) as video,
        tqdm(total=total, desc="rendering", unit="frame") as bar,
    ):
        for chunk in chunks:
            for image in with_opacity(chunk) if transparent else np.asarray(chunk.images):
                video.add(image)
            bar.update(len(chunk.images))


def with_opacity(frames: Frames) -> Float[np.ndarray, "T H W 4"]:
    """Undo the multiplication by the opacity of frames before black, and append it."""
    import numpy as np

    alpha = np.asarray(frames.alpha)[..., None]
    colors = np.asarray(frames.images) / np.maximum(alpha, 1e-3)
    return np.concatenate([np.clip(colors, 0, 1), alpha], axis=-1)


def _chunks(
    avatar: Avatar,
    speech: Speech | None,
    drive: Drive | None,
    deltas: BodyPose | None,
    camera: Camera,
    background: Array,
) -> Iterator[Frames]:
    """Render what is spoken, what is followed, or both."""
    import jax

    from jaxavatar.animate import body_transforms
    from jaxavatar.deformer import Driver
    from jaxavatar.stream import stream, stream_poses

    if speech is None or drive is None:
        assert deltas is not None  # `run` asks for one of them
        return stream_poses(avatar, deltas, camera, background)
    driver = Driver(speech.config)
    if deltas is None:
        return stream(driver, speech.params, avatar, drive, camera, background)
    body = jax.jit(body_transforms)(avatar, deltas)
    return stream(driver, speech.params, avatar, drive, camera, background, body=body)


def prepare_motion(arguments: argparse.Namespace) -> MotionClip | None:
    """Read the motion, if one is named.

    Raises:
        InputError: it cannot be used, or options are given that need one.
    """
    camera = getattr(arguments, "camera", None)  # not every command renders
    if arguments.motion is None:
        given = {"--motion-fps": arguments.motion_fps, "--smplx": arguments.smplx}
        given["--camera motion"] = True if camera == "motion" else None
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} is for --motion; leave it out without that")
        return None
    from jaxavatar.motion import load_motion

    motion = load_motion(arguments.motion, arguments.motion_fps, arguments.smplx)
    if camera == "motion" and motion.camera is None:
        raise InputError(
            f"the motion {arguments.motion} has no cameras of its own; choose --camera front or"
            " orbit"
        )
    return motion


def _background(text: str) -> Background | None:
    """Return the colour of that name, else the picture in that file, [0, 1]; None for "none"."""
    if text == "none":
        return None
    import numpy as np
    from PIL import ImageColor

    from jaxavatar.photo import load_photo

    try:
        return np.array(ImageColor.getrgb(text)[:3], np.float32) / 255
    except ValueError:
        if not pathlib.Path(text).exists():
            raise InputError(
                f"--background {text} is neither a colour nor a picture; give a name such as"
                ' white, "#rrggbb", or a file'
            ) from None
    photo = load_photo(text, max_side=4096)
    common.say(photo.messages)
    return photo.image


def _covering(background: Background, height: int, width: int) -> Background:
    """Scale and crop a picture to cover the frame; leave a colour."""
    import numpy as np
    from PIL import Image, ImageOps

    if background.ndim == 1:
        return background
    picture = Image.fromarray(np.round(background * 255).astype(np.uint8))
    return np.asarray(ImageOps.fit(picture, (width, height)), np.float32) / 255
