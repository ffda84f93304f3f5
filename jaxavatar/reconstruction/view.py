"""The photo's view of the fitted mesh: what every pixel shows, and how deep it lies."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from jaxavatar.body import VERTEX_GROUPS, BodyModel
from jaxavatar.reconstruction.pixels import nearest
from jaxavatar.reconstruction.raster import rasterise
from jaxavatar.reconstruction.surface import Surface

_EYES = (VERTEX_GROUPS.index("left_eye"), VERTEX_GROUPS.index("right_eye"))
_LASHES = 2.0  # pixels around the eyeballs


@dataclasses.dataclass(frozen=True)
class View:
    """The photo's view of the mesh, per pixel of the matte."""

    vertices: np.ndarray  # posed, world
    normals: np.ndarray  # of vertices
    faces: np.ndarray
    K: np.ndarray
    inside: np.ndarray  # matte > 0.5
    depth: np.ndarray  # of what the pixel shows, metres
    corners: np.ndarray  # H W 3, nearest mesh triangle also outside the mesh
    mix: np.ndarray
    covered: np.ndarray  # mesh under the pixel
    to_person: np.ndarray  # 2 H W, nearest pixel inside
    eye: np.ndarray  # which vertices are eyeballs


def look(model: BodyModel, surface: Surface, K: np.ndarray, matte: np.ndarray) -> View:
    """Rasterise the posed surface into the photo.

    Args:
        model: the body.
        surface: the person's mesh.
        K: intrinsics for the size of `matte`.
        matte: coverage, [0, 1].
    """
    vertices, faces = np.asarray(surface.posed, float), np.asarray(model.faces)
    pixels = project(vertices, K)
    owner, weights = rasterise(pixels, vertices[:, 2], faces, matte.shape)
    inside = matte > 0.5
    covered = (owner >= 0) & inside
    # Hair and loose cloth lie outside the mesh: they belong to the nearest mesh pixel.
    _, index = nearest(covered)
    owner, weights = owner[tuple(index)], weights[tuple(index)]
    corners = faces[owner]
    depth = (vertices[corners, 2] * weights).sum(-1)
    corners, weights = _lashes_to_eyes(model, corners, weights, covered)
    depth = np.where(covered, depth, _bulge(depth, covered, inside, K))
    _, to_person = nearest(inside)
    return View(
        vertices=vertices,
        normals=vertex_normals(vertices, faces),
        faces=faces,
        K=K,
        inside=inside,
        depth=depth,
        corners=corners,
        mix=weights,
        covered=covered,
        to_person=to_person,
        eye=np.isin(np.asarray(model.vertex_group), _EYES),
    )


def _lashes_to_eyes(
    model: BodyModel, corners: np.ndarray, weights: np.ndarray, covered: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give the pixels along the lids' edges to the eyeballs.

    A pixel of lash or eye white that moved with the lid would be a speck on it when it shuts.
    """
    eye = covered & np.isin(np.asarray(model.vertex_group)[corners[..., 0]], _EYES)
    if not eye.any():
        return corners, weights
    distance, index = nearest(eye)
    edge = covered & (distance <= _LASHES)
    source = tuple(axis[edge] for axis in index)
    corners, weights = corners.copy(), weights.copy()
    corners[edge], weights[edge] = corners[source], weights[source]
    return corners, weights


def _bulge(depth: np.ndarray, covered: np.ndarray, inside: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Depth of pixels outside the mesh: round towards the matte's border, like a pillow."""
    border, _ = nearest(~inside)
    mesh, _ = nearest(covered)
    metres = depth / K[0, 0]
    across = (border + mesh) * metres  # thickness of the rim between mesh and border
    height = np.sqrt(np.maximum(across**2 - (mesh * metres) ** 2, 0.0))
    return depth - 0.5 * np.minimum(height, 0.06)


def project(
    points: Float[np.ndarray, "P 3"], K: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "P 2"]:
    """Project world points to pixels."""
    depth = np.maximum(points[:, 2:], 1e-3)
    return points[:, :2] / depth * [K[0, 0], K[1, 1]] + K[:2, 2]


def vertex_normals(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, "V 3"]:
    """Return unit normals of vertices, triangles weighted by area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.cross(b - a, c - a)
    total = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(total, faces[:, i], area)
    return unit(total)


def unit(v: Float[np.ndarray, "*N 3"]) -> Float[np.ndarray, "*N 3"]:
    """Scale vectors to length one; zero stays zero."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)
