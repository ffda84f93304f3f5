"""The reader of CTranslate2 files: a round trip, and damage of every kind."""

import struct

import numpy as np
import pytest

from jaxavatar.errors import InputError
from jaxavatar.speech import ct2

ARRAYS = {
    "a/weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/half": np.array([0.5, -2.0], np.float16),
    "heads": np.array(6, np.int16),
    "flag": np.array(-1, np.int8),
}
CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def write(arrays, aliases=(), version=6) -> bytes:
    out = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        out += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", CODES[array.dtype.name], array.nbytes) + array.tobytes()
    out += struct.pack("<I", len(aliases))
    return out + b"".join(text(alias) + text(name) for alias, name in aliases)


def test_round_trip(tmp_path):
    (tmp_path / "model.bin").write_bytes(write(ARRAYS, [("tied", "a/weight")]))
    read = ct2.read(tmp_path / "model.bin")
    assert set(read) == {*ARRAYS, "tied"}
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    np.testing.assert_array_equal(read["tied"], ARRAYS["a/weight"])


def test_every_truncation_is_noticed(tmp_path):
    whole = write(ARRAYS, [("tied", "a/weight")])
    for size in range(len(whole)):
        (tmp_path / "cut.bin").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.bin is no intact"):
            ct2.read(tmp_path / "cut.bin")


@pytest.mark.parametrize(
    "content",
    [
        write(ARRAYS) + b"x",
        write(ARRAYS, version=4),
        write(ARRAYS, [("tied", "nothing")]),
        write(ARRAYS).replace(struct.pack("<B2I", 2, 2, 3), struct.pack("<B2I", 2, 2, 4)),
        np.random.default_rng(0).bytes(500),
    ],
    ids=["longer", "version", "alias", "shape", "noise"],
)
def test_damage_is_noticed(tmp_path, content):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(InputError, match="fetch it again"):
        ct2.read(tmp_path / "model.bin")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot read the model"):
        ct2.read(tmp_path / "model.bin")
