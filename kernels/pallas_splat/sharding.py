"""Rendering on several devices: views over one axis of a mesh, bands of rows over another.

Every device projects all Gaussians for its views and composites its rows of them. Nothing is
exchanged but the counts in `info` (and, for heights that cannot be divided, the finished rows), so
a device computes what one device alone would have: sharing views divides the work, sharing rows
divides compositing, while projection and sorting are repeated in every band.

This is the way to share work: JAX has no rule by which to cut the calls of backend "native" apart,
so `vmap` of `render` under `jit`, with arrays sharded by annotation, need not divide it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from pallas_splat.api import make_options, render_with_room
from pallas_splat.config import Config
from pallas_splat.pipeline import Options, Scene, render_rows
from pallas_splat.structs import Camera, Gaussians, Info, Rendered
from pallas_splat.validate import validate
from pallas_splat.values import check_values, is_traced

_PICTURES = ("image", "alpha", "depth", "features", "median_depth", "normals")
_COUNT_MAX = 2**30  # totals from here on are reported as 2^31 - 1, as those of a single view


def render_sharded(
    gaussians: Gaussians,
    cameras: Camera,
    mesh: Mesh,
    *,
    views: str | None = None,
    rows: str | None = None,
    features: Float[Array, "N C"] | None = None,
    background: Float[Array, "3"] | Float[Array, "H W 3"] | None = None,
    screen_offsets: Float[Array, "V N 2"] | None = None,
    median_depth: bool = False,
    normals: bool = False,
    backend: str | None = None,
    config: Config | None = None,
) -> Rendered:
    """Render several views of the same Gaussians on the devices of a mesh.

    The results are those of `render` for each camera, up to rounding. Works under `jit` and is
    differentiable as `render` is; what all devices share gets the sum of their gradients. Devices
    along further axes of the mesh compute the same.

    `config.capacity` is the room for one view on one device, so for one band of rows. It is
    enlarged outside of transformations, as by `render`; otherwise all outputs of a view are NaN
    where any of its bands overflows.

    Args:
        gaussians: in world space; every device gets all of them.
        cameras: one camera whose arrays have a leading axis of V views. Stack single ones with
            `jax.tree.map(lambda *leaves: jnp.stack(leaves), *cameras)`.
        mesh: the devices.
        views: the mesh axis that shares out the views; its size divides V. None: all devices
            render all views.
        rows: the mesh axis that shares out the rows of every view, in contiguous bands of equal
            height, the last ones padded. None: whole views.
        features: as for `render`; the same for all views.
        background: likewise.
        screen_offsets: as for `render`, for each view.
        median_depth: as for `render`.
        normals: likewise.
        backend: likewise.
        config: likewise.

    Returns:
        What `render` gives, every array with a leading axis of V views: global arrays, sharded by
        views, and pictures also by rows where the height can be divided by the number of bands
        (else each band's device gets the whole picture). `info` counts per view, added up over
        bands; a Gaussian in several bands counts in each.

    Raises:
        ValueError: the mesh has no such axis, the cameras have no axis of views or their number
            cannot be divided, or whatever `render` refuses.
        NotImplementedError: the named backend does not run on this machine.
    """
    _check_axes(mesh, views, rows)
    _check_views(cameras, screen_offsets, mesh, views)
    camera = jax.tree.map(_without_leading_axis, cameras)
    offsets = None if screen_offsets is None else _without_leading_axis(screen_offsets)
    validate(gaussians, camera, features, background, offsets)
    arrays = (gaussians, cameras, features, background, screen_offsets)
    if not is_traced(arrays):
        check_values(*arrays)
    options = make_options(gaussians, backend, config, median_depth, normals)

    if background is not None and background.ndim == 3:
        padding = _band(cameras.height, mesh, rows) * _shards(mesh, rows) - cameras.height
        background = jnp.pad(background, ((0, padding), (0, 0), (0, 0)))
    arguments = Scene(gaussians, features, background, None), cameras, screen_offsets
    specs = _in_specs(arguments[0], views, rows)
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    arguments = jax.device_put(arguments, shardings)
    return render_with_room(
        lambda options: _render(*arguments, options, mesh, views, rows), options
    )


@functools.partial(jax.jit, static_argnames=("options", "mesh", "views", "rows"))
def _render(
    scene: Scene,
    cameras: Camera,
    screen_offsets: Float[Array, "V N 2"] | None,
    options: Options,
    mesh: Mesh,
    views: str | None,
    rows: str | None,
) -> Rendered:
    divides = cameras.height % _shards(mesh, rows) == 0
    specs: dict[str, Any] = dict.fromkeys(_PICTURES, P(views, rows if divides else None))
    specs |= {"radii": P(views), "info": P(views)}

    def shard(scene, cameras, screen_offsets):
        def one(camera, offsets):
            return _render_band(scene._replace(screen_offsets=offsets), camera, options, mesh, rows)

        return jax.vmap(one)(cameras, screen_offsets)

    # The engines' loops do not say which axes their carries vary over, so JAX cannot check it.
    return jax.shard_map(
        shard,
        mesh=mesh,
        in_specs=_in_specs(scene, views, rows),
        out_specs=Rendered(**specs),
        check_vma=False,
    )(scene, cameras, screen_offsets)


def _render_band(
    scene: Scene, camera: Camera, options: Options, mesh: Mesh, rows: str | None
) -> Rendered:
    """Render this device's rows of a view, and settle with the other bands what is the view's."""
    band = _band(camera.height, mesh, rows)
    if rows is None:
        return render_rows(scene, camera, options, jnp.int32(0), band)
    rendered = render_rows(scene, camera, options, lax.axis_index(rows) * band, band)
    info = rendered.info
    overflow = lax.pmax(info.overflow.astype(jnp.int32), rows) > 0

    def settle(picture):
        picture = picture * jnp.where(overflow, jnp.nan, 1).astype(picture.dtype)
        if camera.height % _shards(mesh, rows) == 0:
            return picture
        return lax.all_gather(picture, rows, tiled=True)[: camera.height]

    pictures = {name: getattr(rendered, name) for name in _PICTURES}
    info = Info(_total(info.intersections, rows), _total(info.capacity, rows), overflow)
    return dataclasses.replace(rendered, **jax.tree.map(settle, pictures), info=info)


def _total(count: Int[Array, ""], axis: str) -> Int[Array, ""]:
    """Add up over an axis; 2^31 - 1 stands for "2^30 or more"."""
    approximate = lax.psum(count.astype(jnp.float32), axis)
    exact = lax.psum(count, axis)
    return jnp.where(approximate < _COUNT_MAX, exact, jnp.iinfo(jnp.int32).max)


def _shards(mesh: Mesh, axis: str | None) -> int:
    return 1 if axis is None else mesh.shape[axis]


def _band(height: int, mesh: Mesh, rows: str | None) -> int:
    """Height of a band of rows."""
    return -(-height // _shards(mesh, rows))


def _in_specs(scene: Scene, views: str | None, rows: str | None):
    """How the scene, the cameras and their screen offsets are laid out."""
    specs: dict[str, Any] = dict.fromkeys(Scene._fields, P())
    if scene.background is not None and scene.background.ndim == 3:
        specs["background"] = P(rows)
    return Scene(**specs), P(views), P(views)


def _check_axes(mesh: Mesh, views: str | None, rows: str | None) -> None:
    names = tuple(mesh.axis_names)
    for role, name in (("views", views), ("rows", rows)):
        if name is not None and name not in names:
            raise ValueError(f"{role} must be one of the mesh's axes {names} or None, got {name!r}")
    if views == rows:
        raise ValueError(
            f"views and rows must name different axes of the mesh {names}, got {views!r} for both"
        )


def _check_views(cameras: Camera, screen_offsets, mesh: Mesh, views: str | None) -> None:
    arrays = {
        "cameras.viewmat": (cameras.viewmat, 3),
        "cameras.K": (cameras.K, 3),
        "cameras.distortion": (cameras.distortion, 2),
        "screen_offsets": (screen_offsets, 3),
    }
    n_views = cameras.viewmat.shape[0] if cameras.viewmat.ndim else 0
    for name, (array, ndim) in arrays.items():
        if array is not None and (array.ndim != ndim or array.shape[0] != n_views):
            raise ValueError(
                f"{name} must have {ndim} axes, the first one of views, got shape {array.shape} "
                f"beside cameras.viewmat of {cameras.viewmat.shape}; give a single view [None]"
            )
    shards = _shards(mesh, views)
    if n_views % shards:
        raise ValueError(
            f"{n_views} views cannot be shared equally by the {shards} devices along mesh axis "
            f"{views!r}; repeat a view until there are {-(-n_views // shards) * shards}"
        )


def _without_leading_axis(array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
