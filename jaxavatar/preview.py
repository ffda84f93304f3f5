"""What an avatar looks like, as pictures beside its photo."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from pallas_splat import Config, estimate_capacity

from jaxavatar.animate import pose_avatar, render_frames
from jaxavatar.structs import Avatar, BodyPose
from jaxavatar.views import side_cameras

SIDE_ANGLE = np.deg2rad(30.0)

# Label, angle of the camera, how much of the photo's facial expression.
_VIEWS = (
    ("As in the photo", 0.0, 1.0),
    ("At rest", 0.0, 0.0),
    ("Their left side", SIDE_ANGLE, 0.0),
    ("Their right side", -SIDE_ANGLE, 0.0),
)


def preview(
    avatar: Avatar, photo: Float[np.ndarray, "H W 3"], size: int = 480
) -> dict[str, Float[np.ndarray, "..."]]:
    """Render an avatar from the photo's camera and from the sides, on white.

    Args:
        avatar: whom to show.
        photo: shown first, as it is.
        size: longer side of the rendered pictures, pixels.

    Returns:
        Labels and pictures in [0, 1], for `export.picture.save_panels`.
    """
    count = len(_VIEWS)
    shares = jnp.array([share for _, _, share in _VIEWS])
    deltas = BodyPose(
        rotations=jnp.zeros((count, *avatar.rest.rotations.shape)),
        translation=jnp.zeros((count, 3)),
        expression=shares[:, None] * avatar.photo_expression,
    )
    posed = jax.jit(pose_avatar)(avatar, deltas)
    cameras = side_cameras(avatar, size, np.array([angle for _, angle, _ in _VIEWS]))
    views = [jax.tree.map(lambda leaf, i=i: leaf[i], (posed, cameras)) for i in range(count)]
    config = Config(capacity=max(estimate_capacity(*view) for view in views))
    shown = jax.jit(render_frames, static_argnames="config")(
        posed, cameras, jnp.ones(3), config=config
    )
    images = zip(_VIEWS, np.asarray(shown.images), strict=True)
    return {"Photo": photo} | {label: image for (label, _, _), image in images}
