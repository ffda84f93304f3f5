"""Spots of the template's surface: the nearest ones, where the closed lips part, the irises."""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from experiments.assets.head_views import IRIS_RADIUS
from jaxavatar.body import JOINTS, VERTEX_GROUPS, BodyModel
from jaxavatar.reconstruction.raster import rasterise
from jaxavatar.reconstruction.surface import jaw_share

# Points of the inner lips, upper and lower, that touch when the mouth is closed.
PARTING = (
    *((191, 95), (80, 88), (81, 178), (82, 87), (13, 14)),
    *((312, 317), (311, 402), (310, 318), (415, 324)),
)
CORNERS = (78, 308)
# First iris point (the centre; then towards the person's left, up, right, down) of each eye.
IRISES = {"right_eye": 468, "left_eye": 473}
GRAIN = 12  # steps along the edge of a triangle when looking for its nearest point


def barycentric_lattice() -> Float[np.ndarray, "L 3"]:
    """Return evenly spaced weights of a triangle's corners."""
    a, b = (g.ravel() for g in np.mgrid[: GRAIN + 1, : GRAIN + 1])
    return np.stack([a, b, GRAIN - a - b], 1)[a + b <= GRAIN] / GRAIN


def nearest(
    points: Float[np.ndarray, "P 3"], vertices: Float[np.ndarray, "V 3"], faces: np.ndarray
) -> tuple[Int[np.ndarray, "P 3"], Float[np.ndarray, "P 3"]]:
    """Return the triangles and weights nearest to points."""
    lattice = barycentric_lattice()
    close = np.asarray(KDTree(vertices[faces].mean(1)).query(points, k=24)[1])
    places = np.einsum("lc,pkca->pkla", lattice, vertices[faces[close]])
    distance = np.linalg.norm(places - points[:, None, None], axis=3).reshape(len(points), -1)
    which, spot = np.unravel_index(distance.argmin(1), places.shape[1:3])
    return faces[close[np.arange(len(points)), which]], lattice[spot]


def parting_line(model: BodyModel, points: Float[np.ndarray, "468 3"]) -> dict[tuple, tuple]:
    """Find where the closed lips part, seen from the front.

    Returns:
        For each pair of inner-lip landmarks (a mouth's corner: one alone) a triangle and its
        weights on the last of the upper lip and on the first of the lower lip, at the same x.
    """
    step = 5e-5  # metres per pixel
    vertices, faces = np.asarray(model.vertices, float), np.asarray(model.faces)
    group, lower = np.asarray(model.vertex_group), jaw_share(model)
    low = points[list(CORNERS)].min(0) - 0.004
    high = points[list(CORNERS)].max(0) + 0.004
    near = (group == 0) & (np.abs(vertices - (low + high) / 2) < 0.05).all(1)
    lips = faces[near[faces].all(1)]
    pixels = (vertices[:, :2] - [low[0], high[1]]) * [1, -1] / step
    size = (int((high[1] - low[1]) / step), int((high[0] - low[0]) / step))
    owner, mix = rasterise(pixels, 1.0 - vertices[:, 2], lips, size)
    below = (lower[lips[owner]] * mix).sum(-1) > lower[lips[owner]].max() * 0.4

    def at(row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
        return lips[owner[row, column]], mix[row, column]

    found = {}
    for ids in (*PARTING, *((k,) for k in CORNERS)):
        x = points[list(ids), 0].mean()
        column = int((x - low[0]) / step)
        rows = np.flatnonzero(owner[:, column] >= 0)
        first = int(np.argmax(below[rows, column]))
        found[ids] = (at(rows[first - 1], column), at(rows[first], column))[: len(ids)]
    return found


def iris(model: BodyModel, eye: str) -> tuple[Int[np.ndarray, "5 3"], Float[np.ndarray, "5 3"]]:
    """Return the centre and the border of an iris that looks straight ahead."""
    vertices, faces = np.asarray(model.vertices, float), np.asarray(model.faces)
    ball = np.asarray(model.vertex_group) == VERTEX_GROUPS.index(eye)
    middle = np.asarray(model.joints, float)[JOINTS.index(eye)]
    radius = np.linalg.norm(vertices[ball] - middle, axis=1).max()
    aside = IRIS_RADIUS * np.array([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]])
    ahead = np.sqrt(radius**2 - (aside**2).sum(1, keepdims=True))
    return nearest(middle + np.concatenate([aside, ahead], 1), vertices, faces[ball[faces].all(1)])
