"""Random points of the surface, denser where the face moves and unfolds."""

import dataclasses

import numpy as np

from jaxavatar.body import BodyModel
from jaxavatar.reconstruction.view import unit


@dataclasses.dataclass(frozen=True)
class Draw:
    """Random points of the surface; `density` is relative to their total number."""

    corners: np.ndarray
    mix: np.ndarray
    point: np.ndarray
    normals: np.ndarray
    density: np.ndarray

    def size(self, count: float, largest: float) -> np.ndarray:
        """Return the standard deviation that closes the surface with `count` such points."""
        return np.minimum(0.8 / np.sqrt(count * self.density), largest)


def draw_surface(
    model: BodyModel,
    vertices: np.ndarray,
    normals: np.ndarray,
    faces: np.ndarray,
    count: int,
    rng: np.random.Generator,
) -> Draw:
    """Draw points of some triangles, denser where the face moves and unfolds (lips, eyelids).

    Triangles count as large as the face units ever make them: a folded lid must also cover the
    eye when it is shut.
    """
    units = np.asarray(model.expression_dirs)
    area = _area(vertices, faces)
    for one in units:
        moved = np.flatnonzero(np.abs(one[faces]).max((1, 2)) > 1e-5)
        area[moved] = np.maximum(area[moved], _area(vertices + one * [1, -1, -1], faces[moved]))
    weight = area * (1.0 + 400.0 * np.abs(units).max((0, 2))[faces].mean(1))
    # Systematic draws: neighbours in the list are neighbours in space, so gaps stay small.
    level = (np.arange(count) + rng.random(count)) / count
    draws = np.searchsorted(np.cumsum(weight) / weight.sum(), level).clip(0, len(faces) - 1)
    u = np.sqrt(rng.random(count))
    v = rng.random(count)
    mix = np.stack([1 - u, u * (1 - v), u * v], 1)
    corners = faces[draws]
    return Draw(
        corners=corners,
        mix=mix,
        point=(vertices[corners] * mix[:, :, None]).sum(1),
        normals=unit((normals[corners] * mix[:, :, None]).sum(1)),
        density=weight[draws] / area[draws] / weight.sum(),
    )


def _area(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
