"""`jaxavatar animate`: an avatar and a voice to a video."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import typing

from jaxavatar.cli import common
from jaxavatar.errors import InputError

if typing.TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from jaxavatar.deformer import DriverConfig
    from jaxavatar.structs import Avatar

    Background = Float[np.ndarray, "H W 3"] | Float[np.ndarray, " 3"]  # sRGB in [0, 1]


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "animate",
        help="let an avatar speak, as a video",
        description="Let an avatar speak, and write an MP4 video with sound.",
    )
    parser.add_argument("avatar", type=pathlib.Path, metavar="AVATAR")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, metavar="MP4", help="the video to write"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of speaking and watching."""
    group = parser.add_argument_group("speaking")
    speech = group.add_mutually_exclusive_group(required=True)
    speech.add_argument(
        "--speech", type=pathlib.Path, metavar="FILE", help="recorded speech (WAV, MP3, M4A ...)"
    )
    speech.add_argument("--text", help="words to say with a synthetic voice")
    group.add_argument("--voice", help="voice for --text, of flite (default: slt) or espeak:NAME")
    group.add_argument(
        "--driver", type=pathlib.Path, metavar="FILE", help="motion network other than the packaged"
    )
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
        help='a name, "#rrggbb" or a picture, scaled to cover (default: %(default)s)',
    )
    group.add_argument(
        "--camera",
        choices=("front", "orbit"),
        default="front",
        help="as in the photo, or swinging around the person (default: %(default)s)",
    )


@dataclasses.dataclass(frozen=True)
class Performance:
    """What is spoken, by which motion network, before which background."""

    samples: Float[np.ndarray, " S"]
    text: str | None
    params: dict[str, typing.Any]
    config: DriverConfig
    background: Background


def run(arguments: argparse.Namespace) -> None:
    """Let the avatar speak and write the video."""
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
    if arguments.voice and arguments.text is None:
        raise InputError("--voice is for --text; leave it out with --speech")
    from jaxavatar.deformer import load_params
    from jaxavatar.deformer.weights_file import PACKAGED
    from jaxavatar.speech import sound, voice

    background = _background(arguments.background)
    params, config = load_params(arguments.driver or PACKAGED)
    if arguments.text is None:
        samples = sound.load(arguments.speech)
    else:
        samples, _ = voice.speak(arguments.text, arguments.voice or voice.FLITE_VOICES[0])
    return Performance(samples, arguments.text, params, config, background)


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

    from jaxavatar import views
    from jaxavatar.deformer import Driver
    from jaxavatar.drive import make_drive
    from jaxavatar.export.video import VideoWriter
    from jaxavatar.stream import stream

    common.say(["listening to the speech ..."])
    drive = make_drive(performance.samples, performance.text)
    total = drive.audio.shape[0]
    if arguments.camera == "orbit":
        camera = views.orbit(avatar, arguments.size, total)
    else:
        camera = views.photo_camera(avatar, arguments.size)
    background = jnp.asarray(_covering(performance.background, camera.height, camera.width))
    driver = Driver(performance.config)
    with (
        VideoWriter(target, performance.samples) as video,
        tqdm(total=total, desc="rendering", unit="frame") as bar,
    ):
        for chunk in stream(driver, performance.params, avatar, drive, camera, background):
            for image in np.asarray(chunk.images):
                video.add(image)
            bar.update(len(chunk.images))


def _background(text: str) -> Background:
    """Return the colour of that name, else the picture in that file, [0, 1]."""
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
