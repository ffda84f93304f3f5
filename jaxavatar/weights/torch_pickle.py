"""Read the tensors of a PyTorch `.pth` file without PyTorch, and without running what it holds.

A pickle may name any function. Here only those that rebuild tensors and dictionaries are known, and
ours take their place, so that a file can do no harm.

Both formats are read: the archive of version 1.6 and later, and the stream of pickles before it.
"""

import collections
import dataclasses
import os
import pathlib
import pickle
import zipfile
from typing import Any, BinaryIO

import numpy as np

from jaxavatar.errors import InputError

_TYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass
class _Storage:
    kind: np.dtype
    data: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        data, size = self.storage.data, self.storage.kind.itemsize
        last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        inside = min(self.shape, default=1) > 0 and min(self.strides, default=0) >= 0
        if data is None or not inside or not 0 <= self.offset <= self.offset + last < len(data):
            raise ValueError("a tensor reaches beyond its numbers")
        strides = [size * stride for stride in self.strides]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides).copy()


class _Unpickler(pickle.Unpickler):
    """Knows tensors and ordered dictionaries, nothing else."""

    def __init__(self, file: BinaryIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name of the file."""
        match module, name:
            case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
                return lambda storage, offset, shape, strides, *_: _Tensor(
                    storage, offset, shape, strides
                )
            case "torch._utils", "_rebuild_parameter":
                return lambda tensor, *_: tensor
            case "collections", "OrderedDict":
                return collections.OrderedDict
            case "torch", kind if kind in _TYPES:
                return np.dtype(_TYPES[kind])
        raise ValueError(f"it names {module}.{name}, which is no part of a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that a tensor refers to."""
        _, kind, key, *_ = pid
        return self.storages.setdefault(key, _Storage(kind))


def read_pickled(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a state dict.

    Returns:
        The tensors by name; entries that are no tensors are left out.

    Raises:
        InputError: no such file, or not a PyTorch file of tensors.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            found = _from_archive(file) if zipfile.is_zipfile(file) else _from_stream(file)
        return {str(name): t.array() for name, t in found.items() if isinstance(t, _Tensor)}
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint at {path}; name another file") from error
    # A damaged pickle raises almost anything.
    except Exception as error:
        raise InputError(
            f"{path} is not a PyTorch file of named tensors ({error}); fetch it again, or convert"
            " it to safetensors"
        ) from error


def _from_archive(file: BinaryIO) -> dict[str, Any]:
    storages: dict[str, _Storage] = {}
    with zipfile.ZipFile(file) as archive:
        (main,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(main) as stream:
            found = _Unpickler(stream, storages).load()  # pyright: ignore[reportArgumentType]
        for key, storage in storages.items():
            data = archive.read(main.removesuffix(".pkl") + f"/{key}")
            storage.data = np.frombuffer(data, storage.kind)
    return dict(found)


def _from_stream(file: BinaryIO) -> dict[str, Any]:
    storages: dict[str, _Storage] = {}
    file.seek(0)
    # A magic number, the version and the machine's byte order come first.
    for _ in range(3):
        _Unpickler(file, {}).load()
    found = _Unpickler(file, storages).load()
    for key in _Unpickler(file, {}).load():
        count = int.from_bytes(file.read(8), "little")
        kind = storages[key].kind
        storages[key].data = np.frombuffer(file.read(count * kind.itemsize), kind, count)
    return dict(found)
