"""Safetensors files, read and written one tensor at a time: a whole model need not fit twice."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

from jaxavatar.errors import InputError
from jaxavatar.files import replacing

_KINDS = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file that is read when NumPy asks for it.

    Attributes:
        file: where it lies.
        name: in the file.
        shape: as stored.
    """

    file: "SafetensorsFile"
    name: str
    shape: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.file[self.name], dtype)


class SafetensorsFile(Mapping[str, np.ndarray]):
    """The tensors of a safetensors file by name; each is read when it is asked for."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a file.

        Raises:
            InputError: there is no such file, or it is not a safetensors file.
        """
        try:
            self._file = safetensors.safe_open(path, framework="numpy")
        except FileNotFoundError as error:
            raise InputError(f"there is no checkpoint at {path}; name another file") from error
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(
                f"{path} is not a safetensors file ({error}); pickled checkpoints are not read"
            ) from error
        self._names = tuple(self._file.keys())
        self.metadata: dict[str, str] = self._file.metadata() or {}

    def stored(self, name: str) -> StoredTensor:
        """Return a tensor without reading it."""
        return StoredTensor(self, name, tuple(self._file.get_slice(name).get_shape()))

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str],
    kind: type[np.float32] | type[np.float16],
) -> None:
    """Write tensors as they come, each converted and let go before the next.

    The same tensors and metadata give the same bytes.

    Args:
        path: replaced only once everything is written.
        tensors: anything with a `shape` that NumPy reads, by name.
        metadata: texts to keep with them.
        kind: type of all numbers in the file.

    Raises:
        InputError: the file cannot be written, or a tensor holds numbers that are not finite or
            too large for `kind`.
    """
    dtype = np.dtype(kind)
    names = sorted(tensors)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        shape = tuple(tensors[name].shape)
        start, end = end, end + int(np.prod(shape)) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # numbers begin on a boundary that every type can be read at
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            with np.errstate(over="ignore"):
                array = np.ascontiguousarray(np.asarray(tensors[name]), dtype)
            if not np.isfinite(array).all():
                raise InputError(
                    f"{name} holds numbers that are not finite or too large for {dtype}; store"
                    " float32, or use another checkpoint"
                )
            out.write(array.data)
