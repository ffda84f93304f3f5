"""What several commands share: where results go, what the user is told, compiled code kept."""

import argparse
import contextlib
import os
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from jaxavatar import weights
from jaxavatar.errors import InputError
from jaxavatar.files import replacing

VIDEOS = (".mp4", ".webm")
Commands = Any  # argparse's type of `add_subparsers` is private


class _Undo(Exception):  # noqa: N818 (no error)
    """Leaves `replacing` without writing."""


def check_writable(path: pathlib.Path) -> pathlib.Path:
    """Return `path` if a file can be written there; its folder is made.

    Raises:
        InputError: it cannot.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file with --out")
    with contextlib.suppress(_Undo), replacing(path):
        raise _Undo
    return path


def video_file(path: pathlib.Path) -> pathlib.Path:
    """Return `path` if a video can be written there: a file, or a folder of pictures.

    Raises:
        InputError: its name ends like no format of video, or it cannot be written.
    """
    if is_sequence(path):
        from jaxavatar.export.sequence import check_new

        return check_new(path)
    if path.suffix.lower() not in VIDEOS:
        raise InputError(
            f"cannot write a video to {path}; give --out a name that ends in"
            f" {' or '.join(VIDEOS)}, or a folder's for pictures"
        )
    return check_writable(path)


def is_sequence(path: pathlib.Path) -> bool:
    """Return whether a name stands for a folder of pictures: one without an end."""
    return not path.suffix


def say(messages: Iterable[str]) -> None:
    """Tell the user on the error stream, so that results alone are on the output stream."""
    for message in messages:
        print(message, file=sys.stderr)


def positive(text: str) -> int:
    """Parse a whole number above zero, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


def keep_compiled_code() -> None:
    """Let JAX keep compiled code in the cache folder, so that the next run starts at once."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(weights.cache() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
