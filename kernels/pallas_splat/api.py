"""The splatter's front door: validation, choice of engine, capacity, background."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from pallas_splat.binning import Grid, count, tile_boxes
from pallas_splat.config import ALPHA_MIN, Config
from pallas_splat.project import project
from pallas_splat.structs import Camera, Composite, Gaussians, Info, Rendered
from pallas_splat.validate import validate

BACKENDS = {
    "reference": "pallas_splat.reference",
    "xla": "pallas_splat.xla",
    "native": "pallas_splat.native",
}
"""Modules by backend name, imported on first use; each has a function `composite`."""

_CAPACITY_MAX = 2**30
_CAPACITY_STEP = 1024


def render(
    gaussians: Gaussians,
    camera: Camera,
    *,
    features: Float[Array, "N C"] | None = None,
    background: Float[Array, "3"] | Float[Array, "H W 3"] | None = None,
    backend: str | None = None,
    config: Config | None = None,
) -> Rendered:
    """Render Gaussians.

    Differentiable with respect to every array it is given. The same inputs give bitwise the same
    outputs and gradients on one device. Works under `jit` and `vmap` (over cameras, over scenes).

    Called outside of any transformation, it enlarges `config.capacity` to the next power of two
    when the scene needs it. Under a transformation it cannot: a scene that does not fit then
    gives NaN everywhere, gradients included, and says so in `info`. See `estimate_capacity`.

    Args:
        gaussians: in world space.
        camera: the view; its image size is static.
        features: composited like colours, without a background.
        background: colour behind everything, uniform or per pixel; black when None.
        backend: a name in `BACKENDS`; None chooses the fastest one that runs here.
        config: image formation and sizes; None takes the defaults.

    Returns:
        Image, opacity, expected depth, features and the fill of the intersection list.

    Raises:
        ValueError: a shape or static value is out of bounds, or the backend is unknown.
        NotImplementedError: the named backend does not run on this machine.
    """
    validate(gaussians, camera, features, background)
    if backend is None:
        backend = default_backend(gaussians.means.dtype)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {sorted(BACKENDS)} or None, got {backend!r}")
    config = Config() if config is None else config
    arguments = (gaussians, camera, features, background)
    rendered = _render(*arguments, backend=backend, config=config)
    if not isinstance(rendered.info.overflow, Tracer) and rendered.info.overflow:
        capacity = _next_power_of_two(_checked(rendered.info.intersections))
        config = dataclasses.replace(config, capacity=capacity)
        rendered = _render(*arguments, backend=backend, config=config)
    return rendered


def estimate_capacity(
    gaussians: Gaussians, camera: Camera, config: Config | None = None, margin: float = 1.25
) -> int:
    """Count the list entries that a view needs, with some room for motion.

    Args:
        gaussians: in world space; concrete arrays.
        camera: the view; concrete arrays.
        config: its tile size and image formation are used.
        margin: factor on the count, at least 1.

    Returns:
        A value for `Config.capacity`, rounded up to a multiple of 1024.

    Raises:
        ValueError: a shape is wrong, the margin is below 1, or more than 2^30 are needed.
    """
    validate(gaussians, camera, None, None)
    if margin < 1:
        raise ValueError(f"margin must be >= 1, got {margin}")
    needed = _checked(_count(gaussians, camera, Config() if config is None else config))
    return max(-(-int(needed * margin) // _CAPACITY_STEP), 1) * _CAPACITY_STEP


def available(backend: str) -> bool:
    """Return whether a backend runs on JAX's default device; asking for "native" compiles it."""
    if backend != "native":
        return backend in BACKENDS
    return jax.default_backend() == "cpu" and _engine(backend).available()


def default_backend(dtype=jnp.float32) -> str:
    """Name the fastest backend that runs on JAX's default device for a type of numbers.

    Warns once where only a missing compiler keeps the fastest one away.
    """
    if dtype != jnp.float32 or jax.default_backend() != "cpu":
        return "xla"
    if available("native"):
        return "native"
    _engine("native").announce_unavailable()
    return "xla"


def _engine(backend: str):
    return importlib.import_module(BACKENDS[backend])


@functools.partial(jax.jit, static_argnames=("backend", "config"))
def _render(gaussians, camera, features, background, *, backend: str, config: Config) -> Rendered:
    if gaussians.means.shape[0] == 0:
        layers = _nothing(gaussians, camera, features)
    else:
        layers = _engine(backend).composite(gaussians, camera, features, config)
    image = layers.values[..., :3]
    if background is not None:
        image = image + (1 - layers.alpha)[..., None] * background
    return Rendered(
        image=image,
        alpha=layers.alpha,
        # Whatever is drawn starts with a weight of at least ALPHA_MIN.
        depth=layers.values[..., 3] / jnp.maximum(layers.alpha, ALPHA_MIN),
        features=None if features is None else layers.values[..., 4:],
        info=layers.info,
    )


@functools.partial(jax.jit, static_argnames="config")
def _count(gaussians, camera, config: Config):
    grid = Grid(camera.width, camera.height, config.tile)
    return count(tile_boxes(project(gaussians, camera, config), grid))


def _nothing(gaussians: Gaussians, camera: Camera, features) -> Composite:
    channels = 4 if features is None else 4 + features.shape[1]
    shape, dtype = (camera.height, camera.width), gaussians.means.dtype
    empty = Info(jnp.int32(0), jnp.int32(0), jnp.bool_(False))
    return Composite(jnp.zeros((*shape, channels), dtype), jnp.zeros(shape, dtype), empty)


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
