"""Camera models: where a point in the camera's frame falls on the image, and how that map bends.

A pinhole camera divides by depth. Its lens may be distorted after Brown and Conrady (D. C. Brown,
"Decentering Distortion of Lenses", 1966) with the coefficients k1, k2, p1, p2, k3 of OpenCV. With
the slopes `a = x / z` and `b = y / z`, and `s = a^2 + b^2`:

    radial = 1 + k1 s + k2 s^2 + k3 s^3
    a' = a radial + 2 p1 a b + p2 (s + 2 a^2)
    b' = b radial + p1 (s + 2 b^2) + 2 p2 a b
    (u, v) = (fx a' + cx, fy b' + cy)

The polynomial is fitted to what the lens sees. Further out it may turn back, and OpenCV's
`projectPoints` then puts points from far beside the image into it. Here nothing is drawn beyond
that fold: a point is seen only where `sqrt(s) radial` has grown all the way from the axis to it,
and where the whole map keeps its orientation (a positive determinant).

An orthographic camera leaves out the division: `(u, v) = (fx x + cx, fy y + cy)`.

Numbers per Gaussian are `[N]` columns, as in `project`.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from pallas_splat.config import FRUSTUM_MARGIN
from pallas_splat.linear import vary_together
from pallas_splat.structs import Camera

Matrix = list[list[Array]]

_BISECTIONS = 24
_NEWTON_STEPS = 3
_CLOSE = 1e-4  # of a bisected root, from where Newton's method finishes


def to_screen(
    x: Array, y: Array, inverse_z: Array, view: Matrix, camera: Camera
) -> tuple[list[Array], Matrix, Bool[Array, " N"] | None]:
    """Map points to the image.

    Differentiable in every argument.

    Args:
        x: in the camera's frame, world units, [N].
        y: likewise.
        inverse_z: one over the depth, [N]; an orthographic camera does not look at it.
        view: rotation of world to camera, 3 x 3 scalars.
        camera: the rest of it.

    Returns:
        The pixels u and v; the 2 x 3 Jacobian of world point to pixel, for a pinhole camera taken
        at the border of the widened frustum where the point is outside; and which points are on
        the near side of the lens's fold, None for cameras without distortion. Points beyond the
        fold map to the principal point.
    """
    focal, centre = [camera.K[0, 0], camera.K[1, 1]], [camera.K[0, 2], camera.K[1, 2]]
    if camera.orthographic:
        flat = [focal[k] * point + centre[k] for k, point in enumerate((x, y))]
        return flat, [[focal[k] * view[k][j] for j in range(3)] for k in range(2)], None

    slopes = [x * inverse_z, y * inverse_z]
    low, high = _slope_limits(camera)
    frozen = [jnp.clip(slopes[k], low[k], high[k]) for k in range(2)]
    # A lens bends slopes; without one, focal lengths come first, as XLA:CPU is then faster.
    per_slope = [f * inverse_z if camera.distortion is None else inverse_z for f in focal]
    jacobian = [
        [per_slope[k] * (view[k][j] - frozen[k] * view[2][j]) for j in range(3)] for k in range(2)
    ]
    unfolded = None
    if camera.distortion is not None:
        unfolded = _unfolded(slopes[0], slopes[1], camera.distortion)
        slopes = [jnp.where(unfolded, slope, 0) for slope in slopes]
        slopes = _distort(slopes[0], slopes[1], camera.distortion)
        bend = _bend(frozen[0], frozen[1], camera.distortion)
        jacobian = [
            [focal[k] * (bend[k][0] * a + bend[k][1] * b) for a, b in zip(*jacobian, strict=True)]
            for k in range(2)
        ]
    pixels = [focal[k] * slopes[k] + centre[k] for k in range(2)]
    return pixels, jacobian, unfolded


def _slope_limits(camera: Camera) -> tuple[list[Array], list[Array]]:
    """Least and greatest slopes, per axis, that the widened image shows.

    With distortion, those of its corners and of the points of its border nearest to the axis,
    taken back through the radial part of the lens; the margin is wide enough for the rest.
    """
    low, high = [], []
    for k, size in enumerate((camera.width, camera.height)):
        focal, centre, margin = camera.K[k, k], camera.K[k, 2], FRUSTUM_MARGIN * size
        low.append((-centre - margin) / focal)
        high.append((size - centre + margin) / focal)
    if camera.distortion is None:
        return low, high
    a, b = (jnp.stack([low[k], jnp.clip(0.0, low[k], high[k]), high[k]]) for k in range(2))
    ratio = _undistort_ratio(a[:, None] ** 2 + b**2, camera.distortion)
    borders = ratio * a[:, None], ratio * b
    return [jnp.min(border) for border in borders], [jnp.max(border) for border in borders]


def _undistort_ratio(squared: Float[Array, "..."], distortion: Float[Array, "5"]):
    """Find `t` with `t radial(t^2 squared) = 1`, or the fold where there is no such t.

    Bisection, in which `t = p / (1 - p)`, finds it; Newton's method makes it exact and gives it
    its derivatives (each step adds an order). The fold carries none.
    """
    points, lens = lax.stop_gradient((squared, distortion))
    bounds = vary_together((jnp.zeros_like(points), jnp.ones_like(points), points, lens))

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        t = middle / (1 - middle)
        inside = t * t * points
        before = _grows(inside, lens) & (t * _radial(inside, lens)[0] < 1)
        return jnp.where(before, middle, low), jnp.where(before, high, middle)

    low, _ = lax.fori_loop(0, _BISECTIONS, halve, bounds[:2])
    t = low / (1 - low)
    found = jnp.abs(t * _radial(t * t * points, lens)[0] - 1) < _CLOSE
    for _ in range(_NEWTON_STEPS):
        radial, growth = _radial(t * t * squared, distortion)
        derivative = radial + 2 * t * t * squared * growth
        t = t - jnp.where(found, (t * radial - 1) / jnp.where(found, derivative, 1), 0)
    return t


def _radial(s, distortion):
    """Radial factor and its derivative with respect to s."""
    k1, k2, _, _, k3 = distortion
    return 1 + s * (k1 + s * (k2 + s * k3)), k1 + s * (2 * k2 + 3 * s * k3)


def _grows(s, distortion):
    """Whether `sqrt(s) radial` grows from 0 up to s: its derivative, a cubic, stays positive."""
    k1, k2, _, _, k3 = distortion

    def derivative(s):
        return 1 + s * (3 * k1 + s * (5 * k2 + s * 7 * k3))

    # Where the cubic has its local minimum; of two forms of the root the one without cancellation.
    discriminant = 25 * k2 * k2 - 63 * k1 * k3
    root = jnp.sqrt(jnp.maximum(discriminant, 0))
    denominator = jnp.where(k2 > 0, 5 * k2 + root, 21 * k3)
    numerator = jnp.where(k2 > 0, -3 * k1, root - 5 * k2)
    lowest = numerator / jnp.where(denominator == 0, 1, denominator)
    dips = (discriminant > 0) & (denominator != 0) & (lowest > 0) & (derivative(lowest) <= 0)
    return (derivative(s) > 0) & ~(dips & (s > lowest))


def _distort(a, b, distortion) -> list[Array]:
    _, _, p1, p2, _ = distortion
    aa, ab, bb = a * a, a * b, b * b
    s = aa + bb
    radial, _ = _radial(s, distortion)
    return [
        a * radial + 2 * p1 * ab + p2 * (s + 2 * aa),
        b * radial + p1 * (s + 2 * bb) + 2 * p2 * ab,
    ]


def _bend(a, b, distortion) -> Matrix:
    """Jacobian of `_distort`, which is symmetric."""
    _, _, p1, p2, _ = distortion
    radial, growth = _radial(a * a + b * b, distortion)
    off_diagonal = 2 * (a * b * growth + p1 * a + p2 * b)
    return [
        [radial + 2 * (a * a * growth + p1 * b + 3 * p2 * a), off_diagonal],
        [off_diagonal, radial + 2 * (b * b * growth + 3 * p1 * b + p2 * a)],
    ]


def _unfolded(a, b, distortion):
    """Whether points are seen directly and not around the fold; a constant to the gradient."""
    a, b, distortion = lax.stop_gradient((a, b, distortion))
    (xx, xy), (_, yy) = _bend(a, b, distortion)
    return _grows(a * a + b * b, distortion) & (xx * yy > xy * xy)
