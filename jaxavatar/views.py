"""Cameras to watch an avatar with."""

import jax.numpy as jnp
import jaxlie
import numpy as np
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


def orbit(avatar: Avatar, size: int, frames: int) -> Camera:
    """Return a camera per frame that swings around the person, starting as in the photo.

    It turns about the vertical through the pelvis, 25 degrees to either side within 8 seconds.

    Returns:
        The photo's camera, with `viewmat` and `K` of a leading axis T = `frames`.
    """
    front = photo_camera(avatar, size)
    angle = ORBIT_ANGLE * jnp.sin(2 * np.pi * jnp.arange(frames) / (FPS * ORBIT_SECONDS))
    turn = jaxlie.SO3.exp(angle[:, None] * jnp.array([0.0, 1.0, 0.0]))
    centre = jaxlie.SE3.from_translation(avatar.rest.translation)
    back = jaxlie.SE3.from_translation(-avatar.rest.translation)
    swung = centre @ jaxlie.SE3.from_rotation(turn) @ back
    return Camera(
        viewmat=swung.as_matrix(),
        K=jnp.broadcast_to(front.K, (frames, 3, 3)),
        width=front.width,
        height=front.height,
    )
