"""Messages of named arrays over a socket: the format of docs/teacher_protocol.md.

    magic, 4 bytes | version, uint32 | bytes of the header, uint32 | header, JSON | arrays

Everything is little-endian. Nothing received is executed or unpickled, and its size is checked
before memory is taken for it. Needs numpy alone.
"""

import dataclasses
import json
import math
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

MAGIC = b"JXTP"
VERSION = 1
DTYPES = ("float16", "float32", "float64")
MAX_HEADER = 2**20
"""Bytes."""
MAX_BYTES = 2**32
"""Of all arrays of one message together."""
MAX_ARRAYS = 64
MAX_RANK = 8

_PREFIX = struct.Struct("<4sII")


class WireError(Exception):
    """The other side sent something that is no message of this format."""


@dataclasses.dataclass(frozen=True)
class Message:
    """What goes over the wire in either direction.

    Attributes:
        fields: what JSON can hold.
        arrays: by name, of `DTYPES`.
    """

    fields: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def send(channel: socket.socket, message: Message) -> None:
    """Write one message.

    Raises:
        WireError: it exceeds the format's bounds, or an array has another type than `DTYPES`.
        OSError: the connection broke.
    """
    described = [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        for name, array in message.arrays.items()
    ]
    _sizes(described)
    header = json.dumps({"fields": dict(message.fields), "arrays": described}).encode()
    if len(header) > MAX_HEADER:
        raise WireError(f"a header of {len(header)} bytes is longer than {MAX_HEADER}")
    channel.sendall(_PREFIX.pack(MAGIC, VERSION, len(header)) + header)
    for array in message.arrays.values():
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        channel.sendall(little.reshape(-1).view(np.uint8).data)


def receive(channel: socket.socket) -> Message | None:
    """Read one message; None where the other side has closed the connection between two.

    Raises:
        WireError: it is no message of this version, exceeds the bounds, or is cut short.
        OSError: the connection broke, or took longer than the socket's timeout.
    """
    first = channel.recv(1)
    if not first:
        return None
    magic, version, length = _PREFIX.unpack(first + _exactly(channel, _PREFIX.size - 1))
    if magic != MAGIC:
        raise WireError("it does not speak the teacher protocol")
    if version != VERSION:
        raise WireError(f"it speaks version {version} of the teacher protocol, not {VERSION}")
    if length > MAX_HEADER:
        raise WireError(f"a header of {length} bytes is longer than {MAX_HEADER}")
    fields, described = _parsed(bytes(_exactly(channel, length)))
    arrays = {}
    for entry, size in zip(described, _sizes(described), strict=True):
        kind = np.dtype(entry["dtype"])
        content = np.frombuffer(_exactly(channel, size), kind.newbyteorder("<"))
        arrays[entry["name"]] = content.astype(kind, copy=False).reshape(entry["shape"])
    return Message(fields, arrays)


def _parsed(header: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Decode the header and check its form."""
    try:
        content = json.loads(header)
        fields, described = content["fields"], content["arrays"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise WireError("its header is not the JSON object of the protocol") from error
    if not isinstance(fields, dict) or not isinstance(described, list):
        raise WireError("its header is not the JSON object of the protocol")
    return fields, described


def _sizes(described: list[dict[str, Any]]) -> list[int]:
    """Check the descriptions of arrays and return their sizes in bytes."""
    if len(described) > MAX_ARRAYS:
        raise WireError(f"{len(described)} arrays are more than {MAX_ARRAYS}")
    sizes = []
    names = set()
    for entry in described:
        if not isinstance(entry, dict) or set(entry) != {"name", "dtype", "shape"}:
            raise WireError("an array needs exactly name, dtype and shape")
        name, kind, shape = entry["name"], entry["dtype"], entry["shape"]
        if not isinstance(name, str) or name in names:
            raise WireError(f"arrays need different names, got {name!r}")
        if kind not in DTYPES:
            raise WireError(f"array {name!r} is of {kind!r}, not one of {', '.join(DTYPES)}")
        if not isinstance(shape, list) or len(shape) > MAX_RANK:
            raise WireError(f"array {name!r} has no shape of at most {MAX_RANK} numbers")
        # A Python bool is an int, but no length.
        if not all(type(side) is int and side >= 0 for side in shape):
            raise WireError(f"array {name!r} has the shape {shape}")
        names.add(name)
        sizes.append(math.prod(shape) * np.dtype(kind).itemsize)
    if sum(sizes) > MAX_BYTES:
        raise WireError(f"arrays of {sum(sizes)} bytes are more than {MAX_BYTES}")
    return sizes


def _exactly(channel: socket.socket, count: int) -> bytearray:
    """Read a number of bytes; memory grows with what arrives, not with what was announced."""
    content = bytearray()
    while len(content) < count:
        piece = channel.recv(min(count - len(content), 2**20))
        if not piece:
            raise WireError("it closed the connection in the middle of a message")
        content += piece
    return content


def split_address(address: str) -> tuple[str, int] | str:
    """Read an address: "HOST:PORT", ":PORT" for this machine alone, or "unix:PATH".

    Returns:
        (host, port), or the path of a Unix socket.

    Raises:
        ValueError: it is neither.
    """
    if address.startswith("unix:") and len(address) > len("unix:"):
        return address.removeprefix("unix:")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"the address {address!r} is neither HOST:PORT nor unix:PATH")
    return host or "127.0.0.1", int(port)
