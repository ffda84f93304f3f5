"""The `.avatar` file: one person's avatar as plain arrays, made to outlive the libraries.

It is a NumPy `.npz` archive without pickle. The entry `header` is UTF-8 JSON: the file format's
version, the library's version, the static sizes, and what the creator noted. Every other entry is
an array of `ARRAYS`, under its name in `structs.Avatar`; and, for an avatar with a motion network
of its own, `driver`: the bytes of the network's file (`deformer.save_params`).
"""

import importlib.metadata
import json
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxavatar.errors import InputError
from jaxavatar.files import replacing
from jaxavatar.structs import Avatar, BodyPose

SUFFIX = ".avatar"
FORMAT = "jaxavatar avatar"
VERSION = 1
MAX_BYTES = 4 << 30  # of all arrays together; guards against archives that expand without end


class Stored(NamedTuple):
    """How one array is stored.

    Attributes:
        shape: fixed sizes, or letters that mean the same size in every array.
        kind: type in the file. float16 is used where its rounding (2^-12 of the value) is far
            below what can be seen: half a step of 8-bit colour, hundredths of a millimetre of
            facial displacement. Floats are float32 in memory.
        low: least value.
        high: greatest value.
    """

    shape: tuple[int | str, ...]
    kind: type[np.generic]
    low: float = -np.inf
    high: float = np.inf


ARRAYS: Mapping[str, Stored] = {
    "means": Stored(("N", 3), np.float32),
    "quats": Stored(("N", 4), np.float32),
    "scales": Stored(("N", 3), np.float32, 0),
    "opacities": Stored(("N",), np.float16, 0, 1),
    "colors": Stored(("N", 3), np.float16, 0, 1),
    "weights": Stored(("N", "J"), np.float16, 0, 1),
    "face_units": Stored(("n_face", "E", 3), np.float16),
    "template_points": Stored(("N", 3), np.float32),
    "anchors": Stored(("Q",), np.int32, 0),
    "landmarks": Stored(("K",), np.int32, 0),
    "joints": Stored(("J", 3), np.float32),
    "rest.rotations": Stored(("J", 3), np.float32),
    "rest.translation": Stored((3,), np.float32),
    "rest.expression": Stored(("E",), np.float32),
    "photo_expression": Stored(("E",), np.float32),
    "K": Stored((3, 3), np.float32),
}
JOINTS, FACE_UNITS = 55, 52
_DRIVER = "driver"


class _MalformedError(Exception):
    """The file's content breaks the format; the message says where."""


class _ForeignError(_MalformedError):
    """Some other kind of file."""


class _NewerError(_MalformedError):
    """A later format; the message is its version."""


def save_avatar(
    path: str | os.PathLike[str],
    avatar: Avatar,
    info: Mapping[str, Any],
    driver: bytes | None = None,
) -> None:
    """Write `avatar` to `path`, with `info` (JSON values) about how it was made.

    `driver` is the file of the motion network that was trained for this person, if there is one.

    Opacities, colours, skinning weights and face units are rounded to float16, weights are
    normalised again when loaded. The same avatar gives the same bytes.

    Raises:
        InputError: the file cannot be written.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "library": importlib.metadata.version("jaxavatar"),
        "n_face": avatar.n_face,
        "n_hand": avatar.n_hand,
        "image_size": list(avatar.image_size),
        "info": dict(info),
    }
    text = json.dumps(header, default=_plain).encode()
    arrays: dict[str, Any] = {
        name: np.asarray(_field(avatar, name), stored.kind) for name, stored in ARRAYS.items()
    }
    if driver is not None:
        arrays[_DRIVER] = np.frombuffer(driver, np.uint8)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, header=np.frombuffer(text, np.uint8), **arrays)


def load_avatar(path: str | os.PathLike[str]) -> tuple[Avatar, dict[str, Any]]:
    """Read an avatar and the notes of its creator.

    Raises:
        InputError: the file is missing, no avatar, damaged, or made by a newer version.
    """
    name = pathlib.Path(path)
    try:
        with name.open("rb") as stream:
            header, arrays = _read(stream)
        return _assemble(header, arrays), header["info"]
    except OSError as error:
        raise InputError(f"cannot read the avatar {name}: {error.strerror or error}") from error
    except _NewerError as error:
        raise InputError(
            f"the avatar {name} has format {error}, this jaxavatar reads up to {VERSION}; update"
            " jaxavatar"
        ) from error
    except _ForeignError as error:
        raise InputError(
            f"{name} is not an avatar; make one with `jaxavatar create PHOTO`"
        ) from error
    except _MalformedError as error:
        raise InputError(f"the avatar {name} is damaged ({error}); create it again") from error


def load_driver(path: str | os.PathLike[str]) -> bytes | None:
    """Read the file of the motion network that came with an avatar; None if it has none.

    Raises:
        InputError: as `load_avatar`, whose checks come first.
    """
    load_avatar(path)
    with np.load(path, allow_pickle=False) as archive:
        return archive[_DRIVER].tobytes() if _DRIVER in archive else None


# What zipfile and NumPy raise on a damaged archive.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,
    OverflowError,
    MemoryError,
)


def _read(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the header, then the arrays that it promises."""
    try:
        with zipfile.ZipFile(stream) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_BYTES:
                raise _MalformedError(f"it claims to hold {size >> 20} MiB")
            whole = archive.testzip() is None
    except _DAMAGE as error:
        stream.seek(0)
        cut = stream.read(4) == b"PK\x03\x04"
        raise (_MalformedError("it is incomplete") if cut else _ForeignError()) from error
    if not whole:
        raise _MalformedError("a checksum does not match")
    stream.seek(0)
    try:
        with np.load(stream, allow_pickle=False) as archive:
            if "header" not in archive:
                raise _ForeignError
            header = _header(archive["header"].tobytes())
            missing = [name for name in ARRAYS if name not in archive]
            if missing:
                raise _MalformedError(f"{missing[0]} is missing")
            return header, {name: archive[name] for name in ARRAYS}
    except _DAMAGE as error:
        raise _MalformedError("an entry is no array of numbers") from error


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode())
    except ValueError as error:
        raise _ForeignError from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _ForeignError
    version = header.get("version")
    if not isinstance(version, int) or version < 1:
        raise _MalformedError("its version is unreadable")
    if version > VERSION:
        raise _NewerError(version)
    counts = [header.get("n_face"), header.get("n_hand"), *_pair(header.get("image_size"))]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise _MalformedError("its header lacks the sizes")
    if not isinstance(header.get("info"), dict):
        raise _MalformedError("its header lacks the notes")
    return header


def _pair(value: object) -> list[object]:
    return value if isinstance(value, list) and len(value) == 2 else [None]


def _assemble(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Avatar:
    sizes = {"J": JOINTS, "E": FACE_UNITS, "n_face": header["n_face"]}
    for name, stored in ARRAYS.items():
        _check(name, stored, arrays[name], sizes)
    count, regions = sizes["N"], header["n_face"] + header["n_hand"]
    if count == 0 or regions > count:
        raise _MalformedError(f"{count} Gaussians, but {regions} in its regions")
    for name in ("anchors", "landmarks"):
        if (arrays[name] >= count).any():
            raise _MalformedError(f"{name} point beyond the {count} Gaussians")
    total = arrays["weights"].astype(np.float32).sum(-1, keepdims=True)
    if (abs(total - 1) > 0.01).any():
        raise _MalformedError("skinning weights do not sum to one")
    if (np.linalg.norm(arrays["quats"], axis=-1) < 1e-6).any():
        raise _MalformedError("an orientation is zero")
    values = {
        name: jnp.asarray(array, jnp.int32 if array.dtype.kind == "i" else jnp.float32)
        for name, array in arrays.items()
    }
    values["weights"] /= total
    rest = {name: values.pop(f"rest.{name}") for name in BodyPose.__annotations__}
    return Avatar(
        rest=BodyPose(**rest),
        n_face=header["n_face"],
        n_hand=header["n_hand"],
        image_size=(header["image_size"][0], header["image_size"][1]),
        **values,
    )


def _check(name: str, stored: Stored, array: np.ndarray, sizes: dict[str, int]) -> None:
    """Check type, shape and values; letters not seen before enter `sizes`."""
    if array.dtype != stored.kind:
        raise _MalformedError(f"{name} is of type {array.dtype}")
    fits = array.ndim == len(stored.shape) and all(
        actual == (sizes.setdefault(size, actual) if isinstance(size, str) else size)
        for size, actual in zip(stored.shape, array.shape, strict=True)
    )
    if not fits:
        raise _MalformedError(f"{name} is of shape {array.shape}")
    if not np.isfinite(array).all():
        raise _MalformedError(f"{name} is not finite")
    if array.size and (array.min() < stored.low or array.max() > stored.high):
        raise _MalformedError(f"{name} is out of range")


def _field(avatar: Avatar, name: str) -> Any:
    value: Any = avatar
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _plain(value: Any) -> Any:
    """Let JSON hold NumPy and JAX numbers and arrays."""
    return np.asarray(value).tolist()
