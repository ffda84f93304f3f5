"""Join the processes of one training (`jax.distributed`), each of which has its own devices."""

import argparse
import re

import jax

from jaxavatar.errors import InputError

_AUTO = "auto"


def add_distributed_option(parser: argparse.ArgumentParser) -> None:
    """Let a parser read the option that `join_processes` applies."""
    parser.add_argument(
        "--distributed",
        nargs="?",
        const=_AUTO,
        metavar="HOST:PORT,N,I",
        help="join the other processes: as SLURM, Open MPI, GKE or Cloud TPU tell, or as process I"
        " of N of which number 0 listens at HOST:PORT",
    )


def join_processes(arguments: argparse.Namespace) -> None:
    """Meet the other processes, if asked to; before JAX looks for devices.

    Raises:
        InputError: the option cannot be read, or nothing in the environment tells who is who.
    """
    text = arguments.distributed
    if text is None:
        return
    if text == _AUTO:
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise InputError(
                "nothing here tells which processes belong together; write"
                " --distributed HOST:PORT,N,I with the number of processes and this one's own"
            ) from error
        return
    match = re.fullmatch(r"([^,]+:\d+),(\d+),(\d+)", text)
    if match is None or int(match[3]) >= int(match[2]):
        raise InputError(
            f"--distributed {text} cannot be read; write HOST:PORT,N,I such as node0:8476,2,1 for"
            " the second of two processes"
        )
    jax.distributed.initialize(match[1], int(match[2]), int(match[3]))
