"""One view from Gaussians to pictures, on any engine; what `render` and `render_sharded` share."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_splat import attributes
from pallas_splat.config import ALPHA_MIN, Config
from pallas_splat.engines import engine
from pallas_splat.linear import linear_map, vary_together
from pallas_splat.sorting import segment_sum
from pallas_splat.structs import Camera, Composite, Gaussians, Info, Projected, Rendered

_TINY = 1e-20


class Options(NamedTuple):
    """What is static about rendering a view; see `render`."""

    backend: str
    config: Config
    median_depth: bool
    normals: bool


class Scene(NamedTuple):
    """The arrays that are rendered; see `render`."""

    gaussians: Gaussians
    features: Float[Array, "N C"] | None
    background: Float[Array, "3"] | Float[Array, "H W 3"] | None
    screen_offsets: Float[Array, "N 2"] | None


def render_view(scene: Scene, camera: Camera, options: Options) -> Rendered:
    """Render a whole view."""
    return render_rows(scene, camera, options, jnp.int32(0), camera.height)


def render_rows(
    scene: Scene, camera: Camera, options: Options, top: Int[Array, ""], rows: int
) -> Rendered:
    """Render a horizontal band of a view.

    Args:
        scene: its background, when given per pixel, is that of the band.
        camera: the whole view.
        options: what to render, and how.
        top: first row of the band.
        rows: height of the band, pixels.
    """
    gaussians = scene.gaussians
    if gaussians.means.shape[0] == 0:
        nothing = _nothing(scene, camera, options, rows)
        return _finish(nothing, scene, options, gaussians.means[:, :2], None)
    backend: Any = engine(options.backend)
    # From here on colours are what this camera sees, whatever they were stored as.
    gaussians = dataclasses.replace(gaussians, colors=attributes.colors(gaussians, camera))
    projected = backend.project(gaussians, camera, options.config)
    radii = jnp.stack([projected.extent_x, projected.extent_y], axis=1)
    radii = jnp.where(projected.visible[:, None], radii, 0)
    x, y = projected.x, projected.y - top.astype(projected.y.dtype)
    if scene.screen_offsets is not None:
        x, y = x + scene.screen_offsets[:, 0], y + scene.screen_offsets[:, 1]
    projected = dataclasses.replace(projected, x=x, y=y)

    parts = [gaussians.colors, projected.depth[:, None]]
    if options.normals:
        parts.append(attributes.normals(gaussians, camera))
    if scene.features is not None:
        parts.append(scene.features.astype(projected.x.dtype))
    values = jnp.concatenate(parts, axis=1)
    layers = backend.composite(projected, values, camera.width, rows, options.config)
    median = None
    if options.median_depth:
        median = _median_depth(backend, projected, camera.width, rows, options.config, layers.info)
    return _finish(layers, scene, options, radii, median)


def _median_depth(backend, projected: Projected, width: int, rows: int, config: Config, info: Info):
    """Gather the depth of each pixel's median Gaussian.

    JAX would scatter its gradient, on a GPU by atomic sums in any order; here the order is fixed.
    """
    ids, depth = vary_together((backend.median(projected, width, rows, config), projected.depth))
    nobody = depth.shape[0]

    def gather(ids, depth):
        return jnp.where(ids >= 0, depth[jnp.maximum(ids, 0)], 0)

    def give_back(ids, gradient):
        owners = jnp.where(ids >= 0, ids, nobody).reshape(-1)
        return segment_sum(gradient.reshape(-1, 1), owners, nobody)[:, 0]

    return jnp.where(info.overflow, jnp.nan, linear_map(gather, give_back, ids, depth))


def _finish(layers: Composite, scene: Scene, options: Options, radii, median) -> Rendered:
    image = layers.values[..., :3]
    if scene.background is not None:
        image = image + (1 - layers.alpha)[..., None] * scene.background.astype(image.dtype)
    normals, first_feature = None, 4
    if options.normals:
        normals, first_feature = _unit(layers.values[..., 4:7]), 7
    if options.median_depth and median is None:
        median = jnp.zeros_like(layers.alpha)
    return Rendered(
        image=image,
        alpha=layers.alpha,
        # Whatever is drawn starts with a weight of at least ALPHA_MIN.
        depth=layers.values[..., 3] / jnp.maximum(layers.alpha, ALPHA_MIN),
        features=None if scene.features is None else layers.values[..., first_feature:],
        median_depth=median,
        normals=normals,
        radii=radii,
        info=layers.info,
    )


def _unit(vectors):
    squared = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    somewhere = squared > _TINY
    return jnp.where(somewhere, vectors * jnp.where(somewhere, squared, 1.0) ** -0.5, vectors * 0)


def _nothing(scene: Scene, camera: Camera, options: Options, rows: int) -> Composite:
    channels = 4 + 3 * options.normals
    channels += 0 if scene.features is None else scene.features.shape[1]
    shape, dtype = (rows, camera.width), scene.gaussians.means.dtype
    empty = Info(jnp.int32(0), jnp.int32(0), jnp.bool_(False))
    return Composite(jnp.zeros((*shape, channels), dtype), jnp.zeros(shape, dtype), empty)
