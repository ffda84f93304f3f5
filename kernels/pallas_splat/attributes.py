"""What is composited besides opacity: colour, depth, normals and features of every Gaussian."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_splat.project import Matrix, rotations
from pallas_splat.sh import sh_colors
from pallas_splat.structs import Camera, Gaussians

_SH_OFFSET = 0.5  # a Gaussian without coefficients is grey, by the field's convention
_TINY = 1e-20


def colors(gaussians: Gaussians, camera: Camera) -> Float[Array, "N 3"]:
    """Return the colours that a camera sees, in the type of the means.

    Spherical harmonics are evaluated in the direction from the camera's centre to each Gaussian's,
    or along the view axis when the camera is orthographic. Differentiable in the coefficients, the
    means and the view. The centre is `-R^T t`, so the view has to be a rigid motion.

    Args:
        gaussians: with colours or coefficients.
        camera: the view.
    """
    dtype = gaussians.means.dtype
    if gaussians.colors.ndim == 2:
        return gaussians.colors.astype(dtype)
    if camera.orthographic:
        directions = jnp.broadcast_to(camera.viewmat[2, :3], gaussians.means.shape)
    else:
        centre = -jnp.sum(camera.viewmat[:3, :3] * camera.viewmat[:3, 3:], axis=0)
        directions = gaussians.means - centre
    return jnp.maximum(sh_colors(gaussians.colors.astype(dtype), directions) + _SH_OFFSET, 0)


def normals(gaussians: Gaussians, camera: Camera) -> Float[Array, "N 3"]:
    """Return unit normals in world space, turned towards the camera.

    A Gaussian's normal is its thinnest axis; `linear` turns it as it turns a surface, by its
    cofactors. Which axis is thinnest and which side is seen are constants to the gradient.

    Args:
        gaussians: in world space.
        camera: the view.
    """
    rotation = rotations(gaussians.quats)
    thinnest = jnp.argmin(lax.stop_gradient(gaussians.scales), axis=1)
    axis = [
        jnp.where(thinnest == 0, row[0], jnp.where(thinnest == 1, row[1], row[2]))
        for row in rotation
    ]
    if gaussians.linear is not None:
        linear = [[gaussians.linear[:, i, j] for j in range(3)] for i in range(3)]
        axis = [sum(c * a for c, a in zip(row, axis, strict=True)) for row in _cofactors(linear)]
    squared = sum(a * a for a in axis)
    inverse_norm = lax.rsqrt(jnp.where(squared > _TINY, squared, 1.0))

    view = camera.viewmat
    in_camera = [sum(view[i, j] * axis[j] for j in range(3)) for i in range(3)]
    if camera.orthographic:
        away = in_camera[2]
    else:
        # Not a matrix product: on a GPU timing would choose its algorithm, and so its rounding.
        centres = jnp.sum(gaussians.means[:, None] * view[:3, :3], axis=-1) + view[:3, 3]
        away = sum(in_camera[i] * centres[:, i] for i in range(3))
    sign = jnp.where(lax.stop_gradient(away) > 0, -inverse_norm, inverse_norm)
    return jnp.stack([a * sign for a in axis], axis=1)


def _cofactors(m: Matrix) -> Matrix:
    return [
        [
            m[(i + 1) % 3][(j + 1) % 3] * m[(i + 2) % 3][(j + 2) % 3]
            - m[(i + 1) % 3][(j + 2) % 3] * m[(i + 2) % 3][(j + 1) % 3]
            for j in range(3)
        ]
        for i in range(3)
    ]
