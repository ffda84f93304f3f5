"""Gaussians as other programs store them: rotations and scales alone, with axes of their own."""

import dataclasses

import numpy as np
from jaxtyping import Float
from pallas_splat import Gaussians
from scipy.spatial.transform import Rotation

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic: files store (colour - 1/2) / SH_C0."""

_SMALLEST = 1e-7  # metres; files hold logarithms


@dataclasses.dataclass(frozen=True)
class Splats:
    """N Gaussians of one moment, arrays of NumPy.

    Attributes:
        means: centres, metres.
        quats: orientations, wxyz, unit.
        scales: standard deviations along the local axes, metres, positive.
        opacities: in [0, 1].
        colors: sRGB, in [0, 1].
    """

    means: Float[np.ndarray, "N 3"]
    quats: Float[np.ndarray, "N 4"]
    scales: Float[np.ndarray, "N 3"]
    opacities: Float[np.ndarray, " N"]
    colors: Float[np.ndarray, "N 3"]


def make_splats(gaussians: Gaussians) -> Splats:
    """Put the linear map of each Gaussian into its rotation and scales.

    The covariance `(A R S)(A R S)^T` stays the same: with `A R S = U D V^T` it is `U D^2 U^T`.

    Args:
        gaussians: of one frame, with colours, not spherical harmonics.
    """
    quats = np.asarray(gaussians.quats, np.float64)
    axes = Rotation.from_quat(quats, scalar_first=True).as_matrix()
    axes = axes * np.asarray(gaussians.scales, np.float64)[:, None]
    if gaussians.linear is not None:
        axes = np.asarray(gaussians.linear, np.float64) @ axes
    turned, scales, _ = np.linalg.svd(axes)
    turned[:, :, 2] *= np.sign(np.linalg.det(turned))[:, None]  # no reflections
    return Splats(
        means=np.asarray(gaussians.means, np.float64),
        quats=_quats(turned),
        scales=np.maximum(scales, _SMALLEST),
        opacities=np.clip(np.asarray(gaussians.opacities, np.float64), 0, 1),
        colors=np.clip(np.asarray(gaussians.colors, np.float64), 0, 1),
    )


def facing_forward(splats: Splats, origin: Float[np.ndarray, " 3"]) -> Splats:
    """Change from the camera's frame to y up, the person looking along z, seen from an origin.

    Right, down and forward become left (of the person), up and towards the camera: half a turn
    about x, which is what glTF and SPZ expect of a model.

    Args:
        splats: in the world of a camera (x right, y down, z forward).
        origin: what becomes the origin, in that world.
    """
    half_turn = Rotation.from_euler("x", np.pi)
    rotations = half_turn * Rotation.from_quat(splats.quats, scalar_first=True)
    return dataclasses.replace(
        splats,
        means=half_turn.apply(splats.means - origin),
        quats=_quats(rotations.as_matrix()),
    )


def _quats(matrices: Float[np.ndarray, "N 3 3"]) -> Float[np.ndarray, "N 4"]:
    return Rotation.from_matrix(matrices).as_quat(canonical=True, scalar_first=True)
