"""`jaxavatar create`: a photo to an avatar."""

from __future__ import annotations

import argparse
import json
import pathlib
import typing

from jaxavatar.cli import common
from jaxavatar.files import replacing

if typing.TYPE_CHECKING:
    from jaxavatar.photo import Photo
    from jaxavatar.structs import Avatar

STEPS = 200


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "create",
        help="make an avatar from a photo",
        description="Make an avatar from a photo. Writes NAME.avatar, named after the photo,"
        " preview.png and report.json into the folder.",
    )
    parser.add_argument("photo", type=pathlib.Path, metavar="PHOTO")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, metavar="DIR", help="folder for the results"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of making an avatar."""
    group = parser.add_argument_group("making the avatar")
    group.add_argument(
        "--steps",
        type=common.positive,
        default=STEPS,
        metavar="N",
        help="steps of optimisation on the photo (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of randomness (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Make the avatar and write it."""
    target, preview = places(arguments.out, arguments.photo)
    from jaxavatar.photo import load_photo

    photo = load_photo(arguments.photo)
    make(photo, arguments, target, preview)
    print(target)


def places(folder: pathlib.Path, photo: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Return where the avatar and the preview go.

    Raises:
        InputError: they cannot be written there.
    """
    target = common.check_writable(folder / f"{photo.stem}.avatar")
    return target, common.check_writable(folder / "preview.png")


def make(
    photo: Photo, arguments: argparse.Namespace, target: pathlib.Path, preview: pathlib.Path
) -> Avatar:
    """Make an avatar of the photo and write it with its preview.

    Raises:
        InputError: nobody is found in the photo, or the results cannot be written.
    """
    common.keep_compiled_code()
    from tqdm import tqdm

    from jaxavatar.avatar_file import save_avatar
    from jaxavatar.export.findings import draw_findings
    from jaxavatar.export.picture import save_panels
    from jaxavatar.perception import perceive
    from jaxavatar.preview import preview as render_preview
    from jaxavatar.reconstruction.create import create_avatar

    common.say(photo.messages)
    common.say(["looking for the person in the photo ..."])
    findings = perceive(photo.image)
    common.say(findings.messages)
    with tqdm(total=arguments.steps, desc="making the avatar", unit="step") as bar:

        def progress(step: int, total: int, scalars: dict[str, float]) -> None:
            bar.total = total
            bar.set_postfix(scalars, refresh=False)
            bar.update(step - bar.n)

        creation = create_avatar(
            photo.image, findings, steps=arguments.steps, seed=arguments.seed, progress=progress
        )
    info = {
        "photo": arguments.photo.name,
        "steps": arguments.steps,
        "seed": arguments.seed,
        "messages": [*photo.messages, *findings.messages],
        "report": creation.report,
    }
    save_avatar(target, creation.avatar, info)
    panels = {"Found": draw_findings(photo.image, findings)}
    save_panels(preview, panels | render_preview(creation.avatar, photo.image))
    with replacing(preview.with_name("report.json")) as temporary:
        temporary.write_text(json.dumps(info, indent=1, default=float) + "\n")
    return creation.avatar
