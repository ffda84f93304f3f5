"""LHM's cameras for the splatter.

LHM passes a pose camera to world and intrinsics, and renders with the projection of 3D Gaussian
Splatting (Kerbl et al., 2023), which takes the principal point to be the image's centre.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pallas_splat import Camera


def camera_from_lhm(
    c2w: Float[Array, "4 4"],
    intrinsics: Float[Array, "r c"],
    height: int | None = None,
    width: int | None = None,
) -> Camera:
    """Return the camera with which LHM's renderer sees the world.

    Args:
        c2w: camera to world, OpenCV axes.
        intrinsics: focal lengths and principal point in pixels, 3 x 3 or 4 x 4; of the principal
            point only the default size depends, the camera's is the centre of the image.
        height: of the image, pixels; None takes twice the principal point's row, as LHM does.
        width: likewise; None takes twice its column. Both must be given under `jax.jit`.
    """
    if height is None or width is None:
        columns, rows = (int(2 * side) for side in np.asarray(intrinsics)[:2, 2])
        height, width = height or rows, width or columns
    zero, one = jnp.zeros_like(intrinsics[0, 0]), jnp.ones_like(intrinsics[0, 0])
    K = jnp.stack(
        [
            jnp.stack([intrinsics[0, 0], zero, one * (width / 2)]),
            jnp.stack([zero, intrinsics[1, 1], one * (height / 2)]),
            jnp.stack([zero, zero, one]),
        ]
    )
    return Camera(viewmat=jnp.linalg.inv(c2w), K=K, width=width, height=height)
