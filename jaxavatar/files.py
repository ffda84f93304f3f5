"""Write files so that a reader never sees half of one."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from jaxavatar.errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds.

    On any exception, Ctrl-C included, the temporary file is removed and `path` stays as it was.
    The temporary name keeps the suffix of `path`, because encoders choose the format by it.

    Raises:
        InputError: the folder cannot be created or written, or the disk is full.
    """
    target = pathlib.Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent
        )
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror}; choose another place with --out"
        ) from error
    temporary = pathlib.Path(name)
    try:
        yield temporary
        make_ordinary(temporary)
        temporary.replace(target)
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror or error}; free some space or choose another"
            " place with --out"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def make_ordinary(path: pathlib.Path) -> None:
    """Give a temporary file or folder, which is private, the mode of one made without care."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
