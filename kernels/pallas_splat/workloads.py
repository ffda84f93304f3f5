"""Named scenes that tests and benchmarks share.

Each function gives float64 NumPy arrays, the same ones for the same arguments; `cast` turns them
into JAX arrays of the wanted type.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_splat.structs import Camera, Gaussians

Scene = tuple[Gaussians, Camera]

_BODY = (  # capsules of a standing person: two ends and a radius, metres
    ((0.0, 0.85, 0.0), (0.0, 1.35, 0.0), 0.17),
    ((0.0, 1.40, 0.0), (0.0, 1.50, 0.0), 0.06),
    ((0.0, 1.62, 0.0), (0.0, 1.64, 0.0), 0.11),
    ((-0.22, 1.38, 0.0), (-0.55, 0.95, 0.05), 0.05),
    ((0.22, 1.38, 0.0), (0.55, 0.95, -0.05), 0.05),
    ((-0.10, 0.80, 0.0), (-0.14, 0.08, 0.0), 0.08),
    ((0.10, 0.80, 0.0), (0.14, 0.08, 0.0), 0.08),
)
_BODY_HEIGHT = 1.75
_BODY_SHARE = 0.7  # of the image's height


def avatar(n: int, size: int, seed: int = 0) -> Scene:
    """Cover a standing person with flat, nearly opaque Gaussians.

    Some 11 % of the pixels are covered. Gaussians have a standard deviation of 1 to 1.67 pixels
    at 512 pixels, and scale with the image.

    Args:
        n: number of Gaussians.
        size: width and height of the image, pixels.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    starts, ends, radii = (np.array(part) for part in zip(*_BODY, strict=True))
    lengths = np.linalg.norm(ends - starts, axis=1)
    areas = radii * (lengths + 2 * radii)
    part = rng.choice(len(_BODY), n, p=areas / areas.sum())
    normals = _unit(rng.standard_normal((n, 3)))
    along = rng.uniform(0, 1, (n, 1))
    means = starts[part] + along * (ends - starts)[part] + radii[part, None] * normals

    distance = _BODY_HEIGHT / _BODY_SHARE
    flat = rng.uniform(1.0, 1.67, (n, 2)) * distance / 512
    view = np.diag([1.0, -1.0, -1.0, 1.0])
    view[:3, 3] = 0, _BODY_HEIGHT / 2, distance
    gaussians = _gaussians(
        means=means,
        # The shortest rotation from the local z axis, along which they are thin, to the normal.
        quats=np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(n)], axis=1),
        scales=np.concatenate([flat, 0.2 * flat.min(axis=1, keepdims=True)], axis=1),
        opacities=np.clip(rng.normal(0.9, 0.05, n), 0.6, 0.99),
        colors=np.clip(0.5 + 0.4 * normals + rng.normal(0, 0.1, (n, 3)), 0, 1),
        linear=None,
    )
    return gaussians, _camera(view, size, size, focal=size)


def clustered(n: int, size: int, seed: int = 0) -> Scene:
    """Scatter translucent, deformed Gaussians of many sizes in a few dense clusters.

    Args:
        n: number of Gaussians.
        size: width of the image, pixels; its height is 3/4 of that, rounded down.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    centres = rng.uniform((-1.0, -0.7, 2.0), (1.0, 0.7, 6.0), (5, 3))
    means = centres[rng.integers(5, size=n)] + rng.normal(0, 0.15, (n, 3))
    gaussians = _gaussians(
        means=means,
        quats=rng.standard_normal((n, 4)),
        scales=np.exp(rng.uniform(np.log(0.005), np.log(0.2), (n, 3))),
        opacities=rng.uniform(0.05, 0.9, n),
        colors=rng.uniform(0, 1, (n, 3)),
        linear=np.eye(3) + rng.normal(0, 0.2, (n, 3, 3)),
    )
    return gaussians, _tilted_camera(size, size * 3 // 4)


def adversarial(n: int, size: int, seed: int = 0) -> Scene:
    """Mix everything that breaks splatters; Gaussian i suffers from ailment i modulo 12.

    Args:
        n: number of Gaussians.
        size: width of the image, pixels; its height is 3/4 of that, rounded down.
        seed: of the random numbers.
    """
    gaussians, camera = clustered(n, size, seed)
    means, quats, scales = gaussians.means, gaussians.quats, gaussians.scales
    opacities, linear = gaussians.opacities, gaussians.linear
    assert linear is not None
    means[0::12, 2] = -3.0  # behind the camera
    means[1::12] = (0.0, 0.0, 0.011)  # nearly on the near plane
    scales[1::12] = 1e-4
    scales[2::12] = 0.0  # a point
    scales[3::12, 1:] = 0.0  # a line
    opacities[4::12] = 0.0
    opacities[5::12] = 1.0  # beyond the cap, in many pixels
    scales[5::12] = 0.6
    scales[6::12] = 20.0  # huge
    opacities[6::12] = 0.02
    means[7::12] = (0.013, 0.021, 3.0)  # many on one pixel, all at the same depth
    scales[7::12] = 1e-3
    quats[8::12] = 0.0
    linear[9::12] = 0.0  # squashed by its map
    linear[10::12, 2] = linear[10::12, 1]  # singular map
    means[11::12, 0] += 40.0  # far outside
    return gaussians, camera


SCENES: dict[str, Callable[[int, int], Scene]] = {
    "avatar": avatar,
    "clustered": clustered,
    "adversarial": adversarial,
}
"""Scenes by name; each takes the number of Gaussians and the image's size."""


def cast(tree: Any, dtype: Any) -> Any:
    """Turn the arrays of a pytree into JAX arrays of a type."""
    return jax.tree.map(lambda array: jnp.asarray(array, dtype), tree)


def _tilted_camera(width: int, height: int) -> Camera:
    angle = 0.1
    view = np.eye(4)
    view[:3, :3] = [
        [np.cos(angle), -np.sin(angle), 0],
        [np.sin(angle), np.cos(angle), 0],
        [0, 0, 1],
    ]
    view[:3, 3] = 0.05, -0.02, 0.1
    return _camera(view, width, height, focal=1.3 * width)


def _gaussians(**arrays: Any) -> Gaussians:
    """Hold NumPy arrays where the struct promises JAX ones, until `cast`."""
    return Gaussians(**arrays)


def _camera(view: Any, width: int, height: int, focal: float) -> Camera:
    intrinsics: Any = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Camera(view, intrinsics, width, height)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
