"""Cameras to watch an avatar with."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float
from pallas_splat import Camera

from jaxavatar.structs import FPS, Avatar

ORBIT_ANGLE = np.deg2rad(25.0)
ORBIT_SECONDS = 8.0


def photo_camera(avatar: Avatar, size: int) -> Camera:
    """Return the camera of the photo, for an image whose longer side is `size` pixels.

    Both sides are rounded to even numbers, which video needs; the focal lengths follow each side.
    """
    height, width = avatar.image_size
    scale = size / max(height, width)
    rows, columns = (max(2, 2 * round(side * scale / 2)) for side in (height, width))
    stretch = jnp.array([[columns / width], [rows / height], [1.0]])
    return Camera(
        viewmat=jnp.eye(4), K=(avatar.K * stretch).astype(jnp.float32), width=columns, height=rows
    )


def side_cameras(avatar: Avatar, size: int, angles: Float[ArrayLike, " T"]) -> Camera:
    """Return the photo's camera moved around the vertical through the pelvis.

    Args:
        avatar: whom to see.
        size: longer side of the image, pixels.
        angles: radians; positive ones show the person's left side.

    Returns:
        A camera per angle: `viewmat` and `K` have a leading axis T.
    """
    front = photo_camera(avatar, size)
    # In numpy: JAX would compile every operation again for every number of angles.
    angles, pelvis = np.asarray(angles, float), np.asarray(avatar.rest.translation, float)
    viewmat = np.tile(np.eye(4), (len(angles), 1, 1))
    viewmat[:, 0, 0] = viewmat[:, 2, 2] = np.cos(angles)
    viewmat[:, 0, 2] = np.sin(angles)
    viewmat[:, 2, 0] = -viewmat[:, 0, 2]
    viewmat[:, :3, 3] = pelvis - viewmat[:, :3, :3] @ pelvis
    return Camera(
        viewmat=jnp.asarray(viewmat.astype(np.float32)),
        K=jnp.asarray(np.tile(np.asarray(front.K), (len(angles), 1, 1))),
        width=front.width,
        height=front.height,
    )


def orbit(avatar: Avatar, size: int, frames: int) -> Camera:
    """Return a camera per frame that swings 25 degrees to either side within 8 seconds.

    It starts as in the photo; see `side_cameras`.
    """
    phase = 2 * np.pi * np.arange(frames) / (FPS * ORBIT_SECONDS)
    return side_cameras(avatar, size, ORBIT_ANGLE * np.sin(phase))
