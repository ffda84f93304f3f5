"""Which tiles of its box a Gaussian touches: the ellipse on which alpha equals its threshold.

The ellipse of a large, oblique Gaussian covers little of its box, so its tiles are counted row by
row (as in A. Hanson et al., "Speedy-Splat", CVPR 2025). At the height dy from its centre it reaches

    slope dy +- half sqrt(1 - (dy / reach_y)^2),

to the right furthest at dy = highest and to the left at -highest, so within a row of tiles furthest
at the height of the row that is closest to that.

Two kernels compute the same spans, one to count them, the other to fill them. They must agree to
the last bit, so no product may be contracted with a sum: each goes through a `minimum` first that
changes nothing.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_splat.binning import Boxes, Grid
from pallas_splat.config import ALPHA_MIN
from pallas_splat.project import COVER_MARGIN
from pallas_splat.structs import Projected

_COLUMNS = 16  # of the table; a power of two, which aligns its rows
_MARGIN = 1e-5  # of the box's width, for rounding


class Outline(NamedTuple):
    """Outlines of some Gaussians, one array per component.

    Attributes:
        x: centre, pixels.
        y: centre, pixels.
        half: half width at the centre's height, pixels.
        slope: of the line through the middles of all heights.
        inverse_reach: one over half the height, 1 / pixels.
        highest: height of the rightmost point above the centre, pixels.
        reach_x: half the width, pixels.
        left: first column of tiles of the box.
        top: first row of tiles of the box.
        columns: of the box.
        rows: of the box; 0 for what is not drawn.
    """

    x: Array
    y: Array
    half: Array
    slope: Array
    inverse_reach: Array
    highest: Array
    reach_x: Array
    left: Array
    top: Array
    columns: Array
    rows: Array


_INTEGERS = ("left", "top", "columns", "rows")


def outline_table(projected: Projected, boxes: Boxes) -> Float[Array, "N 16"]:
    """Lay out the outlines of all Gaussians as the kernels read them, integers as floats.

    The conic is the inverse covariance, so what would need a determinant, which cancels for thin
    Gaussians, is had from the extents instead.
    """
    opacity = jnp.maximum(projected.opacity, ALPHA_MIN)
    outline = Outline(
        x=projected.x,
        y=projected.y,
        half=jnp.sqrt(2 * jnp.log(opacity / ALPHA_MIN) / projected.conic_xx) + COVER_MARGIN,
        slope=-projected.conic_xy / projected.conic_xx,
        inverse_reach=1 / projected.extent_y,
        highest=-projected.conic_xy / projected.conic_yy * projected.extent_x,
        reach_x=projected.extent_x,
        left=boxes.left,
        top=boxes.top,
        columns=boxes.columns,
        rows=boxes.count // jnp.maximum(boxes.columns, 1),
    )
    columns = [column.astype(jnp.float32)[:, None] for column in outline]
    rest = jnp.zeros((len(projected.x), _COLUMNS - len(columns)), jnp.float32)
    return jnp.concatenate([*columns, rest], axis=1)


def load_outline(table, gaussians: Array) -> Outline:
    """Load rows of the table, in a kernel."""
    outline = Outline(*(table[gaussians, column] for column in range(len(Outline._fields))))
    return outline._replace(
        **{name: getattr(outline, name).astype(jnp.int32) for name in _INTEGERS}
    )


def span(outline: Outline, row: Array, grid: Grid) -> tuple[Array, Array]:
    """Find the tiles of a row of the box that Gaussians may touch.

    Args:
        outline: of the Gaussians.
        row: of the box, from its top.
        grid: the tiles; their side is a power of two.

    Returns:
        The first column, from the left of the box, and the number of columns.
    """
    low = ((outline.top + row) * grid.tile).astype(jnp.float32) - outline.y
    high = low + grid.tile
    margin = jnp.minimum(outline.reach_x * _MARGIN, outline.reach_x) + COVER_MARGIN

    def edge(dy, side: int) -> Array:
        dy = jnp.minimum(jnp.maximum(dy, low), high)
        height = dy * outline.inverse_reach
        share = jnp.sqrt(1 - jnp.minimum(height * height, 1))
        reach = jnp.minimum(outline.half * share, outline.half) + margin
        middle = jnp.minimum(outline.slope * dy, outline.reach_x)
        edge = (outline.x + (middle + reach if side > 0 else middle - reach)) * (1 / grid.tile)
        edge = (jnp.ceil(edge) if side > 0 else jnp.floor(edge)) - outline.left.astype(jnp.float32)
        bound = outline.columns.astype(jnp.float32)
        return jnp.minimum(jnp.maximum(edge, 0), bound).astype(jnp.int32)

    first, last = edge(-outline.highest, -1), edge(outline.highest, 1)
    return first, jnp.maximum(last - first, 0)
