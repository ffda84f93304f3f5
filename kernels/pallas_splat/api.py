"""The splatter's front door: validation, choice of engine, capacity."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer
from jaxtyping import Array, Float

from pallas_splat.config import Config
from pallas_splat.engines import default_backend, engine
from pallas_splat.pipeline import Options, Scene, render_view
from pallas_splat.project import project
from pallas_splat.structs import Camera, Gaussians, Rendered
from pallas_splat.validate import validate
from pallas_splat.values import check_values, is_traced

_CAPACITY_MAX = 2**30
_CAPACITY_STEP = 1024


def render(
    gaussians: Gaussians,
    camera: Camera,
    *,
    features: Float[Array, "N C"] | None = None,
    background: Float[Array, "3"] | Float[Array, "H W 3"] | None = None,
    screen_offsets: Float[Array, "N 2"] | None = None,
    median_depth: bool = False,
    normals: bool = False,
    backend: str | None = None,
    config: Config | None = None,
) -> Rendered:
    """Render Gaussians.

    Differentiable with respect to every array it is given, in reverse and in forward mode. The
    same inputs give bitwise the same outputs and gradients on one device. Works under `jit` and
    `vmap` (over cameras, over scenes).

    Called outside of any transformation, it checks the values, see `check_values`, and enlarges
    `config.capacity` to the next power of two when the scene needs it. Under a transformation it
    can do neither: a scene that does not fit then gives NaN everywhere, gradients included, and
    says so in `info`. See `estimate_capacity`.

    Args:
        gaussians: in world space.
        camera: the view; its image size is static.
        features: composited like colours, without a background; may be of a narrower type.
        background: colour behind everything, uniform or per pixel; black when None.
        screen_offsets: added to the projected centres, pixels. Give zeros and differentiate with
            respect to them for the screen gradients that densification goes by.
        median_depth: whether to give the median depth as well.
        normals: whether to give normals as well.
        backend: a name in `BACKENDS`; None chooses the fastest one that runs here.
        config: image formation and sizes; None takes the defaults.

    Returns:
        Image, opacity, expected depth and whatever else was asked for.

    Raises:
        ValueError: a shape or static value is out of bounds, the backend is unknown, or, outside
            of transformations, a number is not finite or out of its range.
        NotImplementedError: the named backend does not run on this machine.
    """
    validate(gaussians, camera, features, background, screen_offsets)
    arrays = (gaussians, camera, features, background, screen_offsets)
    if not is_traced(arrays):
        check_values(*arrays)
    options = make_options(gaussians, backend, config, median_depth, normals)
    scene = Scene(gaussians, features, background, screen_offsets)
    return render_with_room(functools.partial(_render, scene, camera), options)


_render = jax.jit(render_view, static_argnames="options")


def make_options(
    gaussians: Gaussians,
    backend: str | None,
    config: Config | None,
    median_depth: bool,
    normals: bool,
) -> Options:
    """Fill in what the caller of `render` or `render_sharded` left open."""
    if backend is None:
        backend = default_backend(gaussians.means.dtype)
    engine(backend)
    return Options(backend, Config() if config is None else config, median_depth, normals)


def render_with_room(render: Callable[[Options], Rendered], options: Options) -> Rendered:
    """Render, and again with a longer list where it was too short and that can be known."""
    rendered = render(options)
    info = rendered.info
    if isinstance(info.overflow, Tracer) or not info.overflow.any():
        return rendered
    capacity = _next_power_of_two(_checked(info.intersections.max()))
    config = dataclasses.replace(options.config, capacity=capacity)
    return render(options._replace(config=config))


def estimate_capacity(
    gaussians: Gaussians,
    camera: Camera,
    config: Config | None = None,
    margin: float = 1.25,
    backend: str | None = None,
) -> int:
    """Count the list entries that a view needs, with some room for motion.

    Args:
        gaussians: in world space; concrete arrays.
        camera: the view; concrete arrays.
        config: its tile size and image formation are used.
        margin: factor on the count, at least 1.
        backend: as for `render`; "pallas" needs fewer entries than the others.

    Returns:
        A value for `Config.capacity`, rounded up to a multiple of 1024.

    Raises:
        ValueError: a shape is wrong, the margin is below 1, or more than 2^30 are needed.
        NotImplementedError: backend "pallas" is named and does not run on this machine.
    """
    validate(gaussians, camera)
    if margin < 1:
        raise ValueError(f"margin must be >= 1, got {margin}")
    options = make_options(gaussians, backend, config, median_depth=False, normals=False)
    needed = _checked(_count(gaussians, camera, options))
    return max(-(-int(needed * margin) // _CAPACITY_STEP), 1) * _CAPACITY_STEP


@functools.partial(jax.jit, static_argnames="options")
def _count(gaussians, camera, options: Options):
    # What needs no list counts as the engine that takes over where it does not run.
    lister: Any = engine(options.backend if options.backend == "pallas" else "xla")
    projected = project(gaussians, camera, options.config)
    return lister.count(projected, camera.width, camera.height, options.config)


def _checked(intersections) -> int:
    intersections = int(intersections)
    if intersections > _CAPACITY_MAX:
        raise ValueError(
            f"the view has more than {_CAPACITY_MAX} intersections of Gaussians and tiles; "
            "the Gaussians are too many or too large for it"
        )
    return intersections


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
