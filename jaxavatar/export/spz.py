"""Write Gaussians as an SPZ file, a tenth of the size of PLY (Niantic, github.com/nianticlabs/spz).

Version 3: a gzip stream of a header of 16 bytes and then, one after the other for all Gaussians,
centres as fixed-point numbers of 24 bits, opacities, colours and logarithms of scales in 8 bits,
and rotations as the three smallest components in 10 bits each.
"""

import gzip
import os
import struct

import numpy as np
from jaxtyping import Float

from jaxavatar.export.splats import SH_C0, Splats
from jaxavatar.files import replacing

_MAGIC, _VERSION = 0x5053474E, 3
_POSITION_BITS, _MOST_FRACTION_BITS = 24, 20
_COLOR_SCALE = 0.15  # of a coefficient, about the middle
_LOG_SCALE_LOWEST, _LOG_SCALE_STEPS = -10.0, 16.0
_MAGNITUDE_BITS = 9  # of a component of a rotation, beside its sign


def save_spz(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write an SPZ file; the format wants x right (or left), y up, z towards the viewer.

    Raises:
        InputError: the file cannot be written.
    """
    farthest = max(float(np.abs(splats.means).max(initial=0)), 1e-3)
    whole_bits = int(np.floor(np.log2(farthest))) + 1
    fraction_bits = int(np.clip(_POSITION_BITS - 2 - whole_bits, 0, _MOST_FRACTION_BITS))
    header = struct.pack("<IIIBBBB", _MAGIC, _VERSION, len(splats.means), 0, fraction_bits, 0, 0)
    fixed = np.round(splats.means * 2**fraction_bits).astype("<i4", order="C")
    positions = fixed.view(np.uint8).reshape(-1, 3, 4)[..., :3]
    parts = [
        positions,
        _byte(splats.opacities * 255),
        _byte(((splats.colors - 0.5) / SH_C0 * _COLOR_SCALE + 0.5) * 255),
        _byte((np.log(splats.scales) - _LOG_SCALE_LOWEST) * _LOG_SCALE_STEPS),
        _smallest_three(splats.quats),
    ]
    content = header + b"".join(part.tobytes() for part in parts)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0))


def _byte(values: Float[np.ndarray, "..."]) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _smallest_three(quats: Float[np.ndarray, "N 4"]) -> np.ndarray:
    """Pack the number of the largest of x, y, z, w, and sign and size of the other three."""
    xyzw = quats[:, [1, 2, 3, 0]]
    rows = np.arange(len(xyzw))
    largest = np.argmax(np.abs(xyzw), axis=1)
    xyzw = xyzw * np.where(xyzw[rows, largest] < 0, -1, 1)[:, None]
    most = 2**_MAGNITUDE_BITS - 1
    sizes = np.round(np.abs(xyzw) * np.sqrt(2) * most).clip(0, most).astype(np.uint32)
    fields = (xyzw < 0).astype(np.uint32) << _MAGNITUDE_BITS | sizes
    packed = largest.astype(np.uint32)
    for component in range(4):
        longer = packed << (_MAGNITUDE_BITS + 1) | fields[:, component]
        packed = np.where(component == largest, packed, longer)
    return packed.astype("<u4")
