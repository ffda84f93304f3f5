"""Checks at the boundary; everything behind it trusts its inputs."""

import jax.numpy as jnp

from pallas_splat.sh import SH_DEGREES
from pallas_splat.structs import Camera, Gaussians


def validate(
    gaussians: Gaussians, camera: Camera, features=None, background=None, screen_offsets=None
) -> None:
    """Check shapes, types and static values of what is to be rendered.

    Args:
        gaussians: of any shapes.
        camera: likewise.
        features: array or None.
        background: array or None.
        screen_offsets: array or None.

    Raises:
        ValueError: quoting the offending value and what it must be.
    """
    n = gaussians.means.shape[0] if gaussians.means.ndim else 0
    expected = {
        "means": (n, 3),
        "quats": (n, 4),
        "scales": (n, 3),
        "opacities": (n,),
        "colors": (n, 3) if gaussians.colors.ndim < 3 else (n, gaussians.colors.shape[1], 3),
        "linear": (n, 3, 3),
    }
    for name, shape in expected.items():
        _check(f"gaussians.{name}", getattr(gaussians, name), shape)
    if gaussians.colors.ndim == 3 and gaussians.colors.shape[1] not in SH_DEGREES:
        raise ValueError(
            "gaussians.colors must hold 1, 4, 9 or 16 coefficients of spherical harmonics, "
            f"got shape {gaussians.colors.shape}"
        )
    _check("camera.viewmat", camera.viewmat, (4, 4))
    _check("camera.K", camera.K, (3, 3))
    _check("camera.distortion", camera.distortion, (5,))
    if camera.orthographic and camera.distortion is not None:
        raise ValueError("camera.distortion must be None for an orthographic camera")
    for name in ("width", "height"):
        if getattr(camera, name) < 1:
            raise ValueError(f"camera.{name} must be >= 1 pixel, got {getattr(camera, name)}")
    if not camera.near > 0:
        raise ValueError(f"camera.near must be > 0, got {camera.near}")
    if features is not None:
        _check("features", features, (n, features.shape[-1] if features.ndim else 0))
    _check("screen_offsets", screen_offsets, (n, 2))
    if background is not None and background.ndim != 1:
        _check("background", background, (camera.height, camera.width, 3))
    elif background is not None:
        _check("background", background, (3,))


def _check(name: str, array, shape: tuple[int, ...]) -> None:
    if array is None:
        return
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be of a floating type, got {array.dtype}")
