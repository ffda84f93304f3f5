"""`jaxavatar create`: a photo to an avatar."""

from __future__ import annotations

import argparse
import json
import pathlib
import typing

from jaxavatar.cli import common
from jaxavatar.errors import InputError
from jaxavatar.files import replacing

if typing.TYPE_CHECKING:
    from jaxavatar.photo import Photo
    from jaxavatar.reconstruction.regress import Regressor
    from jaxavatar.structs import Avatar

METHODS = ("regress+finetune", "regress", "optimise")


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
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="let the transformer make the unseen sides and polish the result on the photo, only"
        " the former, or only the latter (default: %(default)s)",
    )
    group.add_argument(
        "--weights",
        type=pathlib.Path,
        metavar="FILE",
        help="transformer other than the packaged, as `jaxavatar weights import` writes it",
    )
    group.add_argument(
        "--steps",
        type=common.positive,
        metavar="N",
        help="steps of the polish (default: 50 with the transformer, 200 without)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of randomness (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Make the avatar and write it."""
    target, preview = places(arguments.out, arguments.photo)
    from jaxavatar.photo import load_photo

    photo = load_photo(arguments.photo)
    make(photo, prepare(arguments), arguments, target, preview)
    print(target)


def prepare(arguments: argparse.Namespace) -> Regressor | None:
    """Read the transformer where the method needs it, so that mistakes show before the work.

    Raises:
        InputError: options that do not go together, or weights that cannot be used.
    """
    if arguments.method == "regress" and arguments.steps is not None:
        raise InputError("--method regress takes no steps; leave --steps out")
    if arguments.method == "optimise":
        if arguments.weights is not None:
            raise InputError("--method optimise uses no transformer; leave --weights out")
        return None
    from jaxavatar.reconstruction.regress import PACKAGED, load_regressor

    regressor = load_regressor(arguments.weights or PACKAGED)
    if regressor.licences:
        terms = ", ".join(regressor.licences)
        common.say([f"the terms of the transformer's weights hold for the avatar too: {terms}"])
    return regressor


def places(folder: pathlib.Path, photo: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Return where the avatar and the preview go.

    Raises:
        InputError: they cannot be written there.
    """
    target = common.check_writable(folder / f"{photo.stem}.avatar")
    return target, common.check_writable(folder / "preview.png")


def make(
    photo: Photo,
    regressor: Regressor | None,
    arguments: argparse.Namespace,
    target: pathlib.Path,
    preview: pathlib.Path,
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
            photo.image,
            findings,
            method=arguments.method,
            regressor=regressor,
            steps=arguments.steps,
            seed=arguments.seed,
            progress=progress,
        )
    info = {
        "photo": arguments.photo.name,
        "method": arguments.method,
        "licences": [] if regressor is None else list(regressor.licences),
        "steps": creation.report["steps"],
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
