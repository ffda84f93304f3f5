"""Checks of values: what no splatter can draw is named, with the place and the remedy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.experimental import checkify
from jaxtyping import Array, Bool, Float, Int, PyTree

from pallas_splat.structs import Camera, Gaussians

_FINITE = "it must be finite (look for a division or a root of zero, or too long a step)"


class _Finding(NamedTuple):
    """The first bad number of an array, if there is one."""

    is_bad: Bool[Array, ""]
    value: Float[Array, ""]
    place: tuple[Int[Array, ""], ...]


def check_values(
    gaussians: Gaussians,
    camera: Camera,
    features: Float[Array, "N C"] | None = None,
    background: Float[Array, "3"] | Float[Array, "H W 3"] | None = None,
    screen_offsets: Float[Array, "N 2"] | None = None,
) -> None:
    """Check that every number is finite and in its range.

    Scales must not be negative, opacities must lie in [0, 1] and focal lengths must be above 0.
    Inside a transformation it works where `jax.experimental.checkify.checkify` is the outermost
    one: `error, rendered = checkify.checkify(jax.jit(f))(...)`, then `error.throw()`.

    Args:
        gaussians: to be rendered.
        camera: the view.
        features: see `render`.
        background: see `render`.
        screen_offsets: see `render`.

    Raises:
        ValueError: a number is not what it must be; outside of transformations.
        checkify.JaxRuntimeError: likewise, from `error.throw()`.
    """
    arrays = _named(gaussians, camera, features, background, screen_offsets)
    traced = is_traced(arrays)
    if not traced and _all_good(arrays):
        return
    for name, array in arrays.items():
        finding = _find(name, array)
        indices = ", ".join(f"{{i{axis}}}" for axis in range(len(finding.place)))
        message = f"{name}[{indices}] is {{value}}; {_requirement(name)}"
        numbers: dict[str, Any] = {f"i{axis}": index for axis, index in enumerate(finding.place)}
        if traced:
            checkify.check(~finding.is_bad, message, value=finding.value, **numbers)
        elif finding.is_bad:
            raise ValueError(message.format(value=finding.value, **numbers))


def is_traced(arrays: PyTree) -> bool:
    """Return whether a transformation hides the values of any array of a pytree."""
    return any(isinstance(array, Tracer) for array in jax.tree.leaves(arrays))


def _named(gaussians, camera, features, background, screen_offsets) -> dict[str, Array]:
    arrays = {f"gaussians.{name}": array for name, array in vars(gaussians).items()}
    for name in ("viewmat", "K", "distortion"):
        arrays[f"camera.{name}"] = getattr(camera, name)
    arrays |= {"features": features, "background": background, "screen_offsets": screen_offsets}
    return {name: array for name, array in arrays.items() if array is not None and array.size}


def _requirement(name: str) -> str:
    if name == "gaussians.scales":
        return "standard deviations must be finite and at least 0 (give exp of a free parameter)"
    if name == "gaussians.opacities":
        return "opacities must lie in [0, 1] (give the sigmoid of a free parameter, or clip)"
    if name == "camera.K":
        return "intrinsics must be finite and focal lengths above 0"
    return _FINITE


def _is_good(name: str, array: Array) -> Bool[Array, "..."]:
    good = jnp.isfinite(array)
    if name == "gaussians.scales":
        good &= array >= 0
    elif name == "gaussians.opacities":
        good &= (array >= 0) & (array <= 1)
    elif name == "camera.K":
        focal = jnp.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
        good &= ~focal | (array > 0)
    return good


@jax.jit
def _all_good(arrays: dict[str, Array]) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(_is_good(name, arrays[name])) for name in arrays]))


def _find(name: str, array: Array) -> _Finding:
    positions = jnp.arange(array.size).reshape(array.shape)
    first = jnp.min(jnp.where(_is_good(name, array), array.size, positions))
    place = jnp.unravel_index(jnp.minimum(first, array.size - 1), array.shape)
    return _Finding(first < array.size, array[place], place)
