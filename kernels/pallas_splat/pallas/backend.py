"""Backend "pallas": projection in JAX, compositing in Pallas kernels, on NVIDIA GPUs."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_splat.binning import Grid
from pallas_splat.config import Config
from pallas_splat.linear import two_way
from pallas_splat.pallas.backward import composite_tiles_vjp
from pallas_splat.pallas.forward import (
    composite_tiles,
    composite_tiles_jvp,
    composite_tiles_saving,
    median_tiles,
)
from pallas_splat.pallas.lists import Lists, count_entries, list_gaussians
from pallas_splat.pallas.tile import SHAPE_COLUMNS, shape_columns
from pallas_splat.structs import Composite, Info, Projected

_TILES_PER_GAUSSIAN = 8
_CAPACITY_MIN = 4096
_GROUP = 16
"""Most attributes that one program composites; more are shared out over several programs.

16 take 158 registers for the gradient (triton 3.9, sm_90) of the 255 that there are.
"""


class _Static(NamedTuple):
    grid: Grid
    channels: int


def composite(
    projected: Projected, values: Float[Array, "N D"], width: int, height: int, config: Config
) -> Composite:
    """Composite Gaussians tile by tile, front to back.

    Args:
        projected: 2D Gaussians, at least one, float32.
        values: what to composite, float32.
        width: of the image, pixels.
        height: of the image, pixels.
        config: size and capacity. Where more than `capacity` list entries are needed, the result
            and all its derivatives are NaN. Capacity None stands for a few tiles per Gaussian.

    Returns:
        The composited attributes.

    Raises:
        NotImplementedError: an array is not float32, the tile's side is no power of two, or the
            program is lowered for anything but a GPU.
    """
    grid, lists = _lists(projected, width, height, config)
    table, channels = make_table(projected, values)
    image = _composite(_Static(grid, channels), table, lists)[..., :height, :width]
    layers = image[:, :-1].reshape(-1, height, width)[: values.shape[1]]
    capacity = jnp.full_like(lists.total, lists.capacity)
    info = Info(lists.total, capacity, lists.overflow)
    return Composite(jnp.moveaxis(layers, 0, -1), image[0, -1], info)


def median(projected: Projected, width: int, height: int, config: Config) -> Int[Array, "H W"]:
    """Find the Gaussian that takes each pixel's transmittance to one half or below, or -1."""
    grid, lists = _lists(projected, width, height, config)
    table, _ = make_table(lax.stop_gradient(projected), jnp.zeros((len(projected.x), 0)))
    return median_tiles(table, lists, grid)[:height, :width]


def count(projected: Projected, width: int, height: int, config: Config) -> Int[Array, ""]:
    """Count the list entries that a view needs; 2^31 - 1 stands for "2^30 or more"."""
    return count_entries(lax.stop_gradient(projected), Grid(width, height, config.tile))


def make_table(
    projected: Projected, values: Float[Array, "N D"]
) -> tuple[Float[Array, "groups N R"], int]:
    """Lay out the Gaussians as the kernels read them.

    Args:
        projected: 2D Gaussians.
        values: what to composite; shared out evenly over groups.

    Returns:
        The table, see `tile`, and the number of values in each of its rows.
    """
    n, n_values = values.shape
    groups = max(-(-n_values // _GROUP), 1)
    channels = -(-n_values // groups)
    values = jnp.pad(values, ((0, 0), (0, groups * channels - n_values)))
    values = values.reshape(n, groups, channels).transpose(1, 0, 2)
    shapes = jnp.broadcast_to(shape_columns(projected), (groups, n, SHAPE_COLUMNS))
    columns = SHAPE_COLUMNS + channels
    rest = jnp.zeros((groups, n, (1 << (columns - 1).bit_length()) - columns), jnp.float32)
    return jnp.concatenate([shapes, values, rest], axis=2), channels


def _lists(projected: Projected, width: int, height: int, config: Config) -> tuple[Grid, Lists]:
    if projected.x.dtype != jnp.float32:
        raise NotImplementedError(
            f"backend 'pallas' computes in float32, got {projected.x.dtype}; use backend 'xla'"
        )
    if config.tile & (config.tile - 1):
        raise NotImplementedError(
            f"backend 'pallas' needs a tile whose side is a power of two, got {config.tile}"
        )
    grid = Grid(width, height, config.tile)
    room = max(_TILES_PER_GAUSSIAN * len(projected.x), _CAPACITY_MIN)
    return grid, list_gaussians(lax.stop_gradient(projected), grid, config.capacity or room)


def _value(static: _Static, table, lists: Lists):
    return composite_tiles(table, lists, *static) * _poison(lists)


def _forward(static: _Static, table, lists: Lists):
    image, saved = composite_tiles_saving(table, lists, *static)
    image = image * _poison(lists)
    return image, (table, lists, image, saved)


def _tangent(static: _Static, residuals, table_tangent):
    table, lists, *_ = residuals
    return composite_tiles_jvp(table, table_tangent, lists, *static) * _poison(lists)


def _cotangent(static: _Static, residuals, image_grad):
    table, lists, image, saved = residuals
    gradient = composite_tiles_vjp(table, lists, image, saved, image_grad, static.grid)
    return gradient * _poison(lists)


_composite = two_way(_forward, _tangent, _cotangent, _value)


def _poison(lists: Lists) -> Array:
    """NaN where the lists are incomplete, else one."""
    return jnp.where(lists.overflow, jnp.nan, 1).astype(jnp.float32)
