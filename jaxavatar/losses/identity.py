"""Whether two pictures show the same person."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.losses.perceptual import unit
from jaxavatar.perception import face_identity


def identity(
    params: face_identity.Params,
    faces: Float[Array, "B S S 3"],
    targets: Float[Array, "B S S 3"],
) -> Float[Array, ""]:
    """Return one minus the cosine of the faces' embeddings, in [0, 2], a mean over pictures.

    Args:
        params: from `face_identity.load`.
        faces: [0, 1], `face_identity.SIZE` pixels a side.
        targets: the same faces as they should look.
    """
    ours, theirs = (unit(face_identity.embed(params, part)) for part in (faces, targets))
    return 1.0 - jnp.sum(ours * theirs, axis=-1).mean()
