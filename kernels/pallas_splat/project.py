"""EWA projection: from 3D Gaussians to 2D Gaussians on the image plane.

The camera's map (see `cameras`) is replaced by its first-order expansion at each centre (Zwicker et
al., "EWA Splatting", 2002; Kerbl et al., "3D Gaussian Splatting", 2023), so a Gaussian with
covariance `M M^T` in the world becomes one with covariance `(J W M)(J W M)^T + low_pass * I`, J
being the Jacobian and W the rotation of the view.

Small matrices are nested lists whose entries are `[N]` arrays (or scalars): all arithmetic is then
elementwise over N, which XLA:CPU vectorises. Written with broadcast `[3, 3, N]` products it was
some 17 times slower there, and under `jit` jaxlib 0.10.2 gave wrong conics at N = 40,000 (right at
N = 1,000, and without `jit`).
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_splat.cameras import Matrix, to_screen
from pallas_splat.config import ALPHA_MIN, COMPENSATION_MIN, Config
from pallas_splat.structs import Camera, Gaussians, Projected

COVER_MARGIN = 0.01
"""Pixels that keep rounding from pushing a threshold pixel out of its box."""


def project(gaussians: Gaussians, camera: Camera, config: Config) -> Projected:
    """Project Gaussians onto the image plane.

    Differentiable in every array of both arguments; extents and visibility carry no gradient.
    Outside a pinhole camera's frustum, widened by `FRUSTUM_MARGIN`, the Jacobian is taken at the
    border, as the expansion is meaningless there.

    Args:
        gaussians: in world space.
        camera: the view.
        config: its low-pass and Mip compensation are used.

    Returns:
        The 2D Gaussians. Entries that are not visible hold finite numbers without meaning.
    """
    view = [[camera.viewmat[i, j] for j in range(3)] for i in range(3)]
    means, scales = _columns(gaussians.means), _columns(gaussians.scales)
    x, y, z = (_dot(view[i], means) + camera.viewmat[i, 3] for i in range(3))
    beyond_near = z > camera.near
    inverse_z = 1.0 / jnp.where(beyond_near, z, 1.0)

    (centre_x, centre_y), half, unfolded = to_screen(x, y, inverse_z, view, camera)
    if gaussians.linear is not None:
        linear = _columns(gaussians.linear.reshape(-1, 9))
        half = _matmul(half, [linear[:3], linear[3:6], linear[6:]])
    half = _matmul(half, rotations(gaussians.quats))
    row_x, row_y = ([row[j] * scales[j] for j in range(3)] for row in half)

    # The determinant of (row_x, row_y)(row_x, row_y)^T is the squared cross product (Lagrange): no
    # cancellation however thin the Gaussian, unlike xx * yy - xy * xy.
    cross = [row_x[i - 2] * row_y[i - 1] - row_x[i - 1] * row_y[i - 2] for i in range(3)]
    det = _dot(cross, cross)
    xx, xy, yy = _dot(row_x, row_x), _dot(row_x, row_y), _dot(row_y, row_y)
    det_blurred = det + config.low_pass * (xx + yy) + config.low_pass**2
    xx, yy = xx + config.low_pass, yy + config.low_pass

    opacity = gaussians.opacities
    if config.antialias:
        opacity = opacity * jnp.sqrt(jnp.maximum(det / det_blurred, COMPENSATION_MIN))

    extent_x, extent_y = _extents(xx, yy, opacity)
    visible = beyond_near & (opacity >= ALPHA_MIN)
    visible &= (centre_x + extent_x > 0) & (centre_x - extent_x < camera.width)
    visible &= (centre_y + extent_y > 0) & (centre_y - extent_y < camera.height)
    if unfolded is not None:
        visible &= unfolded
    return Projected(
        x=centre_x,
        y=centre_y,
        conic_xx=yy / det_blurred,
        conic_xy=-xy / det_blurred,
        conic_yy=xx / det_blurred,
        opacity=opacity,
        depth=z,
        extent_x=extent_x,
        extent_y=extent_y,
        visible=visible,
    )


def shape_rows(projected: Projected) -> Float[Array, "N 6"]:
    """Gather what alpha depends on: centre x, y, conic xx, xy, yy, opacity, in this order."""
    return jnp.stack(
        [
            projected.x,
            projected.y,
            projected.conic_xx,
            projected.conic_xy,
            projected.conic_yy,
            projected.opacity,
        ],
        axis=1,
    )


def rotations(quats: Float[Array, "N 4"]) -> Matrix:
    """Turn quaternions (wxyz, any norm) into rotation matrices.

    A zero quaternion gives the identity with zero gradient instead of NaN.

    Args:
        quats: one per row.

    Returns:
        3 x 3 entries, each an array of N.
    """
    w, x, y, z = _columns(quats)
    squared = w * w + x * x + y * y + z * z
    inverse_norm = lax.rsqrt(jnp.where(squared > 0, squared, 1.0))
    w, x, y, z = (component * inverse_norm for component in (w, x, y, z))
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]


def _columns(rows: Float[Array, "N D"]) -> list[Float[Array, " N"]]:
    return [rows[:, j] for j in range(rows.shape[1])]


def _extents(xx, yy, opacity):
    """Half sizes of the box around the ellipse on which alpha equals `ALPHA_MIN`."""
    xx, yy, opacity = (lax.stop_gradient(a) for a in (xx, yy, opacity))
    mahalanobis = jnp.sqrt(2 * jnp.log(jnp.maximum(opacity / ALPHA_MIN, 1.0)))
    return (mahalanobis * jnp.sqrt(variance) + COVER_MARGIN for variance in (xx, yy))


def _matmul(a: Matrix, b: Matrix) -> Matrix:
    return [[_dot(row, column) for column in zip(*b, strict=True)] for row in a]


def _dot(a, b) -> Array:
    return sum(x * y for x, y in zip(a, b, strict=True))  # pyright: ignore[reportReturnType]
