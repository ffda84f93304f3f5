"""Options that every training command has: how long, which states to keep, what to trace."""

import argparse
import dataclasses
from typing import Any


def add_loop_options(parser: argparse.ArgumentParser) -> None:
    """Let a parser read the options that `with_loop_options` applies."""
    parser.add_argument("--steps", type=int, help="stop after so many steps instead")
    keep = parser.add_mutually_exclusive_group()
    said = "keep, beside the newest states, the one with the {} mean of this metric"
    keep.add_argument("--keep-lowest", metavar="METRIC", help=said.format("lowest"))
    keep.add_argument("--keep-highest", metavar="METRIC", help=said.format("highest"))
    parser.add_argument(
        "--profile",
        type=int,
        nargs="?",
        const=3,
        default=0,
        metavar="STEPS",
        help="trace so many steps, from the third on, for TensorBoard's profiler (3)",
    )


def with_loop_options(config: Any, arguments: argparse.Namespace) -> Any:
    """Return a training's configuration with the options' changes to its `loop`."""
    changes: dict[str, Any] = {"profile": arguments.profile}
    if arguments.steps is not None:
        changes["steps"] = arguments.steps
    if arguments.keep_lowest is not None:
        changes |= {"best": arguments.keep_lowest, "best_is": "lowest"}
    if arguments.keep_highest is not None:
        changes |= {"best": arguments.keep_highest, "best_is": "highest"}
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, **changes))
