"""Place Gaussians: one per pixel where the photo sees the person, the template's surface elsewhere.

All arrays here are host arrays, made once per photo. The counts are fixed budgets, so that every
avatar has the same shapes and nothing is compiled anew for another photo.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from jaxavatar.body import REGIONS, BodyModel
from jaxavatar.reconstruction.sampling import draw_surface
from jaxavatar.reconstruction.surface import Surface
from jaxavatar.reconstruction.view import View, look, project, unit, vertex_normals


@dataclasses.dataclass(frozen=True)
class Budget:
    """How many Gaussians: seen in the photo and not, per region (face, hand, body)."""

    seen: tuple[int, int, int] = (9000, 2500, 16500)
    unseen: tuple[int, int, int] = (6000, 1500, 8500)


DEFAULT_BUDGET = Budget()


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where Gaussians stand on the surface, grouped by region: face, hand, body.

    Attributes:
        corners: vertices of the triangle each one belongs to.
        mix: barycentric weights.
        shift: from the surface point to the Gaussian, posed as in the photo, world metres.
        normals: outward, posed, world.
        sizes: standard deviation along the surface, metres.
        slant: how much longer it is along the steepest direction, at least 1: one pixel covers
            more of a surface seen at a grazing angle.
        pixel: (x, y) in the photo; NaN where the photo does not see the point.
        seen: whether the photo sees it.
        region: index into (face, hand, body).
    """

    corners: Int[np.ndarray, "N 3"]
    mix: Float[np.ndarray, "N 3"]
    shift: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    sizes: Float[np.ndarray, " N"]
    slant: Float[np.ndarray, " N"]
    pixel: Float[np.ndarray, "N 2"]
    seen: np.ndarray
    region: Int[np.ndarray, " N"]


ORDER = ("face", "hand", "body")
_EYE_DEPTH = 0.0015  # metres
_OVERLAP = 0.7  # standard deviation of a seen Gaussian over the distance to the next
_LARGEST = (0.003, 0.006, 0.02)  # standard deviation of an unseen one per region, metres


def place(
    model: BodyModel,
    surface: Surface,
    K: Float[np.ndarray, "3 3"],
    matte: Float[np.ndarray, "H W"],
    budget: Budget,
    rng: np.random.Generator,
) -> Placement:
    """Choose the Gaussians of an avatar.

    Args:
        model: the body.
        surface: the person's mesh.
        K: intrinsics for the size of `matte`.
        matte: the person's coverage in the photo, [0, 1].
        budget: counts per region.
        rng: for the choice of points.
    """
    view = look(model, surface, K, matte)
    region = _vertex_order(model)
    parts = []
    for k in range(len(ORDER)):
        parts.append(_seen(view, region, k, budget.seen[k], rng))
        parts.append(_unseen(model, view, region, k, budget.unseen[k], rng))
    fields = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Placement(*fields)


def place_at(
    model: BodyModel,
    surface: Surface,
    K: Float[np.ndarray, "3 3"],
    matte: Float[np.ndarray, "H W"],
    corners: Int[np.ndarray, "N 3"],
    mix: Float[np.ndarray, "N 3"],
    area: Float[np.ndarray, " N"],
) -> Placement:
    """Put Gaussians at given points of the template, grouped by region (`by_region`).

    Args:
        model: the body.
        surface: the person's mesh.
        K: intrinsics for the size of `matte`.
        matte: the person's coverage in the photo, [0, 1].
        corners: vertices of the triangle each point lies in.
        mix: barycentric weights.
        area: of the surface that each point stands for, square metres.
    """
    view = look(model, surface, K, matte)
    order = by_region(model, corners)
    corners, mix = corners[order], mix[order]
    point = (view.vertices[corners] * mix[:, :, None]).sum(1)
    normals = unit((view.normals[corners] * mix[:, :, None]).sum(1))
    pixel = project(point, K)
    height, width = matte.shape
    inside = ((pixel >= 0) & (pixel < [width, height])).all(1)
    ix, iy = np.clip(pixel.astype(int), 0, [width - 1, height - 1]).T
    facing = -(normals * unit(point)).sum(1) > 0.2
    seen = inside & facing & view.covered[iy, ix] & (point[:, 2] < view.depth[iy, ix] + 0.004)
    return Placement(
        corners=corners,
        mix=mix,
        shift=np.zeros((len(corners), 3)),
        normals=normals,
        sizes=0.7 * np.sqrt(area[order]),
        slant=np.ones(len(corners)),
        pixel=np.where(seen[:, None], pixel, np.nan),
        seen=seen,
        region=_vertex_order(model)[corners[:, 0]],
    )


def by_region(model: BodyModel, corners: Int[np.ndarray, "N 3"]) -> Int[np.ndarray, " N"]:
    """Return the order in which points of the template are grouped by region."""
    return np.argsort(_vertex_order(model)[corners[:, 0]], kind="stable")


def _vertex_order(model: BodyModel) -> Int[np.ndarray, " V"]:
    """Return each vertex's index into `ORDER`."""
    names = np.array([ORDER.index(name) for name in REGIONS])
    return names[np.asarray(model.region)]


def _seen(view: View, region: np.ndarray, k: int, count: int, rng: np.random.Generator) -> tuple:
    """Choose pixels of one region, as evenly as the budget allows."""
    owner_region = region[view.corners[..., 0]]
    ys, xs = np.nonzero(view.inside & (owner_region == k))
    if len(xs) == 0:
        return _empty(count, k)
    area = len(xs)
    step = np.sqrt(area / count)
    x, y = _lattice(xs, ys, view.inside & (owner_region == k), step, rng)
    chosen = _exactly(len(x), count, rng)
    x, y, padded = x[chosen[0]], y[chosen[0]], chosen[1]
    ix = np.clip(x.astype(int), 0, view.inside.shape[1] - 1)
    iy = np.clip(y.astype(int), 0, view.inside.shape[0] - 1)
    # The nearest pixel's depth: interpolating between an arm and the chest would float in between.
    depth = view.depth[iy, ix]
    corners, mix = view.corners[iy, ix], view.mix[iy, ix]
    # Eyes lie a little deeper than they seem, or lashes and irises would show through shut lids.
    depth = depth + _EYE_DEPTH * view.eye[corners[:, 0]]
    point = np.stack([x, y, np.ones_like(x)], 1) @ np.linalg.inv(view.K).T * depth[:, None]
    surface_point = (view.vertices[corners] * mix[:, :, None]).sum(1)
    normals = unit((view.normals[corners] * mix[:, :, None]).sum(1))
    normals = np.where((normals[:, 2] < 0)[:, None], normals, normals * [1, 1, -1])
    sizes = np.where(padded, 0.0, _OVERLAP * step * depth / view.K[0, 0])
    slant = 1.0 / np.clip(-(normals * unit(point)).sum(1), 0.4, 1.0)
    slant[~view.covered[iy, ix]] = 1.0  # hair and cloth beyond the mesh face the camera
    return (
        corners,
        mix,
        point - surface_point,
        normals,
        sizes,
        slant,
        np.stack([x, y], 1),
        ~padded,
        np.full(count, k),
    )


def place_everywhere(
    model: BodyModel, surface: Surface, budget: tuple[int, int, int], rng: np.random.Generator
) -> Placement:
    """Cover the whole surface without a photo, `budget` Gaussians per region (face, hand, body)."""
    vertices, faces = np.asarray(surface.posed, float), np.asarray(model.faces)
    normals, region = vertex_normals(vertices, faces), _vertex_order(model)
    parts = []
    for k, count in enumerate(budget):
        draw = draw_surface(model, vertices, normals, faces[region[faces[:, 0]] == k], count, rng)
        parts.append(
            (
                draw.corners,
                draw.mix,
                np.zeros((count, 3)),
                draw.normals,
                draw.size(count, 0.02),
                np.ones(count),
                np.full((count, 2), np.nan),
                np.zeros(count, bool),
                np.full(count, k),
            )
        )
    return Placement(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _unseen(
    model: BodyModel,
    view: View,
    region: np.ndarray,
    k: int,
    count: int,
    rng: np.random.Generator,
) -> tuple:
    """Sample the template's surface where the photo does not see it."""
    faces = view.faces[region[view.faces[:, 0]] == k]
    draw = draw_surface(model, view.vertices, view.normals, faces, 6 * count, rng)
    point = draw.point
    x, y = project(point, view.K).T
    height, width = view.inside.shape
    framed = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    ix, iy = np.clip(x.astype(int), 0, width - 1), np.clip(y.astype(int), 0, height - 1)
    # A grazing view counts as unseen: there the pixels are too sparse to close the surface.
    facing = -(draw.normals * unit(point)).sum(1) > 0.4
    visible = framed & view.covered[iy, ix] & (point[:, 2] < view.depth[iy, ix] + 0.004) & facing
    if ORDER[k] == "face":
        # Folded lids and inner lips lie just behind what is seen, and must not cover it.
        seen_corners = view.corners[iy, ix]
        visible &= (draw.corners[:, :, None] == seen_corners[:, None, :]).any((1, 2)) | (
            point[:, 2] < view.depth[iy, ix] + 0.0007
        )
    hidden = np.flatnonzero(~visible)
    if len(hidden) == 0:
        return _empty(count, k)
    index, padded = _exactly(len(hidden), count, rng)
    keep = hidden[index]

    shift = np.zeros((count, 3))
    outside = framed[keep] & ~view.inside[iy[keep], ix[keep]]
    # The template may be wider than the person: pull what would stick out behind the person.
    ty, tx = view.to_person[:, iy[keep], ix[keep]]
    depth = point[keep, 2]
    shift[:, 0] = np.where(outside, (tx + 0.5 - x[keep]) * depth / view.K[0, 0], 0.0)
    shift[:, 1] = np.where(outside, (ty + 0.5 - y[keep]) * depth / view.K[1, 1], 0.0)
    shift[:, 2] = np.where(outside, 0.01, 0.0)
    # The budget goes to the hidden share of the surface only.
    share = len(hidden) / len(visible)
    sizes = draw.size(min(count, len(hidden)) / share, _LARGEST[k])[keep]
    return (
        draw.corners[keep],
        draw.mix[keep],
        shift,
        draw.normals[keep],
        np.where(padded, 0.0, sizes),
        np.ones(count),
        np.full((count, 2), np.nan),
        np.zeros(count, bool),
        np.full(count, k),
    )


def _lattice(
    xs: np.ndarray, ys: np.ndarray, mask: np.ndarray, step: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points of a jittered lattice of spacing `step` pixels that fall into `mask`."""
    gx = np.arange(xs.min(), xs.max() + 1, step)
    gy = np.arange(ys.min(), ys.max() + 1, step)
    x, y = (g.ravel() for g in np.meshgrid(gx + step / 2, gy + step / 2))
    x = x + rng.uniform(-0.2, 0.2, x.shape) * step
    y = y + rng.uniform(-0.2, 0.2, y.shape) * step
    ok = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    x, y = x[ok], y[ok]
    ok = mask[y.astype(int), x.astype(int)]
    return x[ok], y[ok]


def _exactly(available: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` indices below `available` and which of them are padding (repeats)."""
    if available >= count:
        return np.sort(rng.choice(available, count, replace=False)), np.zeros(count, bool)
    index = np.concatenate([np.arange(available), np.zeros(count - available, int)])
    return index, np.arange(count) >= available


def _empty(count: int, k: int) -> tuple:
    """Stand in for a region the photo or the template does not have: nothing is drawn."""
    return (
        np.zeros((count, 3), int),
        np.tile([1.0, 0.0, 0.0], (count, 1)),
        np.zeros((count, 3)),
        np.tile([0.0, 0.0, -1.0], (count, 1)),
        np.zeros(count),
        np.ones(count),
        np.full((count, 2), np.nan),
        np.zeros(count, bool),
        np.full(count, k),
    )
