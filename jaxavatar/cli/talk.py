"""`jaxavatar talk`: a photo and a voice to a video, in one go."""

import argparse
import pathlib

from jaxavatar.cli import animate, common, create


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "talk",
        help="make a photo talk, as a video (create and animate)",
        description="Make an avatar from a photo and let it speak. --out is a video, .mp4 or .webm,"
        " or a folder that gets video.mp4 (video.webm if transparent); the avatar and preview.png"
        " are written beside the video.",
    )
    parser.add_argument("photo", type=pathlib.Path, metavar="PHOTO")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, metavar="FILE|DIR", help="where to write"
    )
    create.add_options(parser)
    animate.add_options(parser, required=True)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Make the avatar, let it speak, write both."""
    out = arguments.out
    name = "video.webm" if arguments.background == "none" else "video.mp4"
    video = common.video_file(out if out.suffix.lower() in common.VIDEOS else out / name)
    target, preview = create.places(video.parent, arguments.photo)
    from jaxavatar.photo import load_photo

    photo = load_photo(arguments.photo)
    regressor = create.prepare(arguments)
    performance = animate.prepare(arguments)
    avatar = create.make(photo, regressor, arguments, target, preview)
    animate.render(avatar, performance, arguments, video)
    print(target)
    print(video)
