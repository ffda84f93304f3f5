"""The transformer's query points: spread evenly over the template, the last quarter on the head."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from jaxavatar.body import JOINTS, PARENTS, BodyModel, load_template
from jaxavatar.reconstruction.transformer.canonical import query_points

_HEAD = ("neck", "head", "jaw", "left_eye", "right_eye")
# The plastic numbers: consecutive multiples fill the unit square evenly (Roberts, 2018).
_STEPS = (0.7548776662466927, 0.5698402909980532)


@dataclasses.dataclass(frozen=True)
class Queries:
    """Query points of the packaged template.

    Attributes:
        corners: vertices of the triangle each one lies in.
        mix: barycentric weights.
        points: in the canonical pose, metres.
        weights: skinning weights.
        area: of the template's surface that each one stands for, square metres.
    """

    corners: Int[np.ndarray, "M 3"]
    mix: Float[np.ndarray, "M 3"]
    points: Float[np.ndarray, "M 3"]
    weights: Float[np.ndarray, "M J"]
    area: Float[np.ndarray, " M"]


@functools.lru_cache(maxsize=4)
def template_queries(count: int) -> Queries:
    """Return `count` query points: 3 (count // 4) on the body, the others on head and neck.

    They are the same on every machine, since trained parameters belong to them.
    """
    model = load_template()
    faces, weights = np.asarray(model.faces), np.asarray(model.weights)
    head = weights[:, [JOINTS.index(name) for name in _HEAD]].sum(1)[faces].mean(1) > 0.5
    body = 3 * (count // 4)
    parts = [_spread(model, faces[~head], body), _spread(model, faces[head], count - body)]
    corners, mix, area = (np.concatenate(column) for column in zip(*parts, strict=True))
    own = (weights[corners] * mix[:, :, None]).sum(1)
    # Eager even when first called while tracing: the cache must not keep a tracer.
    with jax.ensure_compile_time_eval():
        points = in_canonical_pose(model, corners, mix)
    return Queries(corners, mix, points, own, area)


def in_canonical_pose(
    model: BodyModel, corners: Int[np.ndarray, "N 3"], mix: Float[np.ndarray, "N 3"]
) -> Float[np.ndarray, "N 3"]:
    """Return where points of the template are in the transformer's canonical pose, metres."""
    at = (np.asarray(model.vertices)[corners] * mix[:, :, None]).sum(1)
    weights = (np.asarray(model.weights)[corners] * mix[:, :, None]).sum(1)
    return np.asarray(query_points(jnp.asarray(at), jnp.asarray(weights), model.joints, PARENTS))


def nearest_queries(
    queries: Queries, points: Float[np.ndarray, "N 3"]
) -> tuple[Int[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
    """Return the three nearest query points of each point, and weights of sum 1.

    Args:
        queries: at least three.
        points: on the template in the canonical pose, metres.
    """
    distance, index = KDTree(queries.points).query(points, k=3)
    near = 1.0 / (distance + 1e-3)
    return np.asarray(index, np.int32), (near / near.sum(1, keepdims=True)).astype(np.float32)


def _spread(
    model: BodyModel, faces: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spread points by area; return corners, mix and each one's area."""
    a, b, c = (np.asarray(model.vertices, float)[faces[:, k]] for k in range(3))
    area = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2)
    level = (np.arange(count) + 0.5) / count
    corners = faces[np.searchsorted(area / area[-1], level)]
    u, v = (np.arange(count)[:, None] * _STEPS % 1.0).T
    u = np.sqrt(u)
    mix = np.stack([1 - u, u * (1 - v), u * v], 1)
    return corners, mix, np.full(count, area[-1] / count)
