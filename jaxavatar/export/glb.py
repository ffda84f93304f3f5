"""Write Gaussians as a binary glTF file with the extension KHR_gaussian_splatting.

The extension is Khronos', ratified: points with rotations (xyzw), linear scales, opacities and
coefficients of spherical harmonics, colours as shown on a display. Viewers that do not know it
show coloured points.
"""

import json
import os
import struct
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxavatar.export.splats import SH_C0, Splats
from jaxavatar.files import replacing

EXTENSION = "KHR_gaussian_splatting"
_FLOAT, _BYTE = 5126, 5121
_POINTS = 0
_VERTICES = 34962
_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_JSON, _BINARY = 0x4E4F534A, 0x004E4942


def save_glb(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write a GLB file; glTF wants y up and the person looking along z.

    Raises:
        InputError: the file cannot be written.
    """
    buffer = Buffer()
    fallback = np.concatenate([_linear(splats.colors), splats.opacities[:, None]], axis=1)
    attributes = {
        "POSITION": buffer.add(splats.means, bounds=True),
        "COLOR_0": buffer.add(fallback, _BYTE),
        f"{EXTENSION}:ROTATION": buffer.add(splats.quats[:, [1, 2, 3, 0]]),
        f"{EXTENSION}:SCALE": buffer.add(splats.scales),
        f"{EXTENSION}:OPACITY": buffer.add(splats.opacities[:, None]),
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": buffer.add((splats.colors - 0.5) / SH_C0),
    }
    kind = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    primitive = {"attributes": attributes, "mode": _POINTS, "extensions": {EXTENSION: kind}}
    document = {
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "avatar"}],
        "meshes": [{"primitives": [primitive]}],
    }
    write_glb(path, document, buffer)


class Buffer:
    """The binary part of a file: arrays one after the other, and what glTF says of them."""

    def __init__(self):
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(
        self, rows: Float[np.ndarray, "N C"], component: int = _FLOAT, bounds: bool = False
    ) -> int:
        """Append an array; return the number of its accessor.

        Args:
            rows: 1, 3 or 4 numbers per element; in [0, 1] where they are stored as bytes.
            component: type that they are stored as.
            bounds: whether to state least and greatest, which positions need.
        """
        stored = np.round(rows * 255).astype(np.uint8) if component == _BYTE else rows
        stored = stored.astype(np.uint8 if component == _BYTE else "<f4")
        accessor: dict[str, Any] = {
            "bufferView": len(self.views),
            "componentType": component,
            "count": len(rows),
            "type": _TYPES[rows.shape[1]],
        }
        if component == _BYTE:
            accessor["normalized"] = True
        if bounds:
            accessor |= {"min": stored.min(0).tolist(), "max": stored.max(0).tolist()}
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": stored.nbytes}
        view["target"] = _VERTICES
        self.views.append(view)
        self.accessors.append(accessor)
        self.data += stored.tobytes()
        self.data += bytes(-len(self.data) % 4)
        return len(self.accessors) - 1


def write_glb(path: str | os.PathLike[str], document: dict[str, Any], buffer: Buffer) -> None:
    """Write a document of glTF 2.0 and its one buffer.

    Raises:
        InputError: the file cannot be written.
    """
    document = {
        "asset": {"version": "2.0", "generator": "jaxavatar"},
        **document,
        "buffers": [{"byteLength": len(buffer.data)}],
        "bufferViews": buffer.views,
        "accessors": buffer.accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = [
        struct.pack("<II", len(part), kind) + part
        for part, kind in ((text, _JSON), (bytes(buffer.data), _BINARY))
    ]
    size = 12 + sum(len(chunk) for chunk in chunks)
    with replacing(path) as temporary:
        temporary.write_bytes(struct.pack("<4sII", b"glTF", 2, size) + b"".join(chunks))


def _linear(srgb: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Undo the transfer function of sRGB (IEC 61966-2-1): vertex colours are linear in glTF."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
