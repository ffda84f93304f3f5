"""What the transformer reads of the points that were placed on a photo."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxavatar.body import BodyModel, skin
from jaxavatar.reconstruction.paint import mouth_lining
from jaxavatar.reconstruction.place import ORDER, Placement
from jaxavatar.reconstruction.query import Queries, in_canonical_pose, nearest_queries
from jaxavatar.reconstruction.surface import Surface
from jaxavatar.reconstruction.transformer.placed import PhotoPoints
from jaxavatar.reconstruction.view import unit
from jaxavatar.structs import Avatar

_skin = jax.jit(skin)

_SEEN, _UNSEEN, _FACE, _HAND = 0.04, 0.08, 0.01, 0.005  # metres


def observe(
    model: BodyModel, surface: Surface, placement: Placement, avatar: Avatar, queries: Queries
) -> PhotoPoints:
    """Describe placed points to the transformer.

    Args:
        model: the body.
        surface: the person's mesh.
        placement: where the points are.
        avatar: assembled from them, with their first colours.
        queries: of the transformer.

    Returns:
        One photo's points, without a leading axis.
    """
    points = in_canonical_pose(model, placement.corners, placement.mix)
    nearest, shares = nearest_queries(queries, points)
    return PhotoPoints(
        points=jnp.asarray(points, jnp.float32),
        colors=avatar.colors,
        seen=jnp.asarray(placement.seen),
        rays=jnp.asarray(_rays(surface, avatar), jnp.float32),
        reach=jnp.asarray(_reach(model, placement), jnp.float32),
        shifts=jnp.asarray(mesh_shifts(surface, placement, avatar), jnp.float32),
        nearest=jnp.asarray(nearest),
        shares=jnp.asarray(shares),
    )


def _rays(surface: Surface, avatar: Avatar) -> Float[np.ndarray, "N 3"]:
    """Return the direction from the photo's camera to each Gaussian, canonical."""
    posed, linear = _skin(avatar.means, avatar.weights, surface.transforms)
    canonical = np.linalg.solve(np.asarray(linear, float), np.asarray(posed, float)[:, :, None])
    return unit(canonical[:, :, 0])


def _reach(model: BodyModel, placement: Placement) -> Float[np.ndarray, " N"]:
    """Return how far each point may move, metres: unseen hair and cloth the farthest."""
    first = placement.corners[:, 0]
    unseen = np.where(placement.region == ORDER.index("face"), _FACE, _UNSEEN)
    unseen = np.where(placement.region == ORDER.index("hand"), _HAND, unseen)
    inside = (np.asarray(model.vertex_group)[first] > 0) | mouth_lining(model)[first]
    return np.where(placement.seen, _SEEN, np.where(inside, 0.0, unseen))


def mesh_shifts(surface: Surface, placement: Placement, avatar: Avatar) -> Float[np.ndarray, "N 3"]:
    """Return how far each Gaussian is from the mesh at rest, canonical metres."""
    at_rest = np.asarray(avatar.means, float).copy()
    units = np.asarray(avatar.face_units, float)
    at_rest[: avatar.n_face] -= units.transpose(0, 2, 1) @ np.asarray(avatar.rest.expression)
    corners, mix = placement.corners, placement.mix[:, :, None]
    return at_rest - (np.asarray(surface.neutral, float)[corners] * mix).sum(1)
