"""The command line: parse, load, call, save.

Every command imports what it needs when it runs, so that `--help` and mistakes in the arguments
answer at once.
"""

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence

from jaxavatar.cli import animate, create, distill, export, export_motion, talk, weights
from jaxavatar.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `jaxavatar` command.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit status: 0, 2 after an error of the input, 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except InputError as error:
        print(f"jaxavatar: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\njaxavatar: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxavatar",
        description="From one photo and a voice to a talking 3D Gaussian avatar.",
    )
    version = importlib.metadata.version("jaxavatar")
    parser.add_argument("--version", action="version", version=f"jaxavatar {version}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (talk, create, animate, distill, export, export_motion, weights):
        command.add_parser(commands)
    return parser
