"""Write Gaussians as a binary glTF file with the extension KHR_gaussian_splatting.

The extension is Khronos', ratified: points with rotations (xyzw), linear scales, opacities and
coefficients of spherical harmonics, colours as shown on a display. Viewers that do not know it
show coloured points.
"""

import functools
import json
import os
import struct
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from jaxavatar.export.splats import SH_C0, Splats
from jaxavatar.files import replacing

EXTENSION = "KHR_gaussian_splatting"
_COMPONENTS = {"<u1": 5121, "<u2": 5123, "<u4": 5125, "<f4": 5126}
_TYPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_POINTS = 0
_JSON, _BINARY = 0x4E4F534A, 0x004E4942

VERTICES, INDICES = 34962, 34963
"""What a buffer view is for, where it is for one of these."""


def save_glb(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write a GLB file; glTF wants y up and the person looking along z.

    Raises:
        InputError: the file cannot be written.
    """
    buffer = Buffer()
    add = functools.partial(buffer.add, target=VERTICES)
    attributes = {
        "POSITION": add(splats.means, bounds=True),
        "COLOR_0": add(color_bytes(splats.colors, splats.opacities), normalized=True),
        f"{EXTENSION}:ROTATION": add(splats.quats[:, [1, 2, 3, 0]]),
        f"{EXTENSION}:SCALE": add(splats.scales),
        f"{EXTENSION}:OPACITY": add(splats.opacities),
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": add((splats.colors - 0.5) / SH_C0),
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
        self,
        rows: Shaped[np.ndarray, "N *element"],
        target: int | None = None,
        bounds: bool = False,
        normalized: bool = False,
    ) -> int:
        """Append an array; return the number of its accessor.

        Args:
            rows: numbers, vectors of 3 or 4, or 4 x 4 matrices (by columns); unsigned integers,
                or floats, which are stored in 32 bits.
            target: what the array is for, see `VERTICES`.
            bounds: whether to state least and greatest, which positions and times need.
            normalized: whether integers stand for [0, 1].
        """
        stored = _stored(rows)
        accessor = self._accessor(stored) | {"bufferView": self._view(stored, target)}
        if normalized:
            accessor["normalized"] = True
        if bounds:
            accessor |= {"min": _list(stored.min(0)), "max": _list(stored.max(0))}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def add_sparse(self, rows: Float[np.ndarray, "N 3"]) -> int:
        """Append vectors of which many are zero, with their bounds; only the others are stored."""
        stored = _stored(rows)
        (places,) = np.nonzero(np.any(stored, axis=1))
        places = places if len(places) else np.arange(1)
        accessor = self._accessor(stored)
        accessor["sparse"] = {
            "count": len(places),
            "indices": {
                "bufferView": self._view(places.astype("<u4"), None),
                "componentType": _COMPONENTS["<u4"],
            },
            "values": {"bufferView": self._view(stored[places], None)},
        }
        accessor |= {"min": _list(stored.min(0)), "max": _list(stored.max(0))}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def _accessor(self, stored: np.ndarray) -> dict[str, Any]:
        return {
            "componentType": _COMPONENTS[f"<{stored.dtype.str[1:]}"],
            "count": len(stored),
            "type": _TYPES[stored.shape[1:]],
        }

    def _view(self, stored: np.ndarray, target: int | None) -> int:
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": stored.nbytes}
        self.views.append(view if target is None else view | {"target": target})
        self.data += stored.tobytes()
        self.data += bytes(-len(self.data) % 4)
        return len(self.views) - 1


def color_bytes(
    srgb: Float[np.ndarray, "N 3"], opacities: Float[np.ndarray, " N"]
) -> UInt8[np.ndarray, "N 4"]:
    """Turn colours into vertex colours, which are linear in glTF: sRGB's function undone."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    colors = np.concatenate([linear, opacities[:, None]], axis=1)
    return np.round(np.clip(colors, 0, 1) * 255).astype(np.uint8)


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


def _stored(rows: np.ndarray) -> np.ndarray:
    """Return an array as it is stored: by rows, floats in 32 bits."""
    return np.ascontiguousarray(rows, "<f4" if rows.dtype.kind == "f" else None)


def _list(values: np.ndarray) -> list[float]:
    return np.atleast_1d(values).tolist()
