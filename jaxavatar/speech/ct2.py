"""Reader of CTranslate2's binary model files (versions 5 and 6).

Layout, little-endian: u32 version, string specification, u32 revision, u32 count, then per
variable: string name, u8 rank, u32 dimensions, u8 type, u32 bytes, data; then u32 aliases, each two
strings (alias, name). A string is a u16 length with its final NUL and the bytes.
"""

import math
import os
import pathlib
import struct

import numpy as np

from jaxavatar.errors import InputError

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read every variable of a CTranslate2 model, aliases included.

    Args:
        path: the file, usually called model.bin.

    Returns:
        Read-only arrays by name, in the type of the file.

    Raises:
        InputError: the file is missing, of another version, cut off or otherwise damaged.
    """
    file = pathlib.Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the model {file}: {error.strerror}") from error
    try:
        return _parse(_Cursor(content))
    except (ValueError, struct.error) as error:
        raise InputError(
            f"{file} is no intact CTranslate2 model ({error}); delete it and fetch it again"
        ) from error


class _Cursor:
    """A position in the file that cannot leave it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.content):
            raise ValueError(f"{size} bytes are missing at offset {self.at}")
        piece = self.content[self.at : self.at + size]
        self.at += size
        return piece

    def number(self, form: str) -> int:
        (value,) = struct.unpack("<" + form, self.take(struct.calcsize(form)))
        return value

    def text(self) -> str:
        return self.take(self.number("H")).rstrip(b"\0").decode()


def _parse(cursor: _Cursor) -> dict[str, np.ndarray]:
    version = cursor.number("I")
    if version not in (5, 6):
        raise ValueError(f"format version {version}, not 5 or 6")
    cursor.text()  # the specification's name
    cursor.number("I")  # its revision
    arrays: dict[str, np.ndarray] = {}
    for _ in range(cursor.number("I")):
        name = cursor.text()
        shape = tuple(cursor.number("I") for _ in range(cursor.number("B")))
        code, size = cursor.number("B"), cursor.number("I")
        if code not in _TYPES:
            raise ValueError(f"unknown type {code} of {name!r}")
        kind = np.dtype(_TYPES[code])
        if math.prod(shape) * kind.itemsize != size:
            raise ValueError(f"{name!r} has {size} bytes, which do not make up {shape}")
        arrays[name] = np.frombuffer(cursor.take(size), kind.newbyteorder("<")).reshape(shape)
    for _ in range(cursor.number("I")):
        alias, name = cursor.text(), cursor.text()
        if name not in arrays:
            raise ValueError(f"{alias!r} stands for {name!r}, which is missing")
        arrays[alias] = arrays[name]
    if cursor.at != len(cursor.content):
        raise ValueError(f"{len(cursor.content) - cursor.at} bytes too many")
    return arrays
