"""The custom operations of MediaPipe's attention face graph.

The graph finds a coarse mesh, cuts aligned patches of its features around the lips and the eyes,
and refines those parts. Source: MediaPipe, `mediapipe/util/tflite/operations`
(landmarks_to_transform_matrix, transform_tensor_bilinear, transform_landmarks; all version 2).
Matrices are [1, 4, 4] and map patch pixels to feature-map pixels.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.perception.tflite_ops import Op


def transform_matrix(op: Op, landmarks: Float[Array, "1 L 3"]) -> Float[Array, "1 4 4"]:
    """Landmarks2TransformMatrix: the patch upright around some landmarks.

    The patch is turned so that the line between two landmarks (eye corners, mouth corners) is
    level, and covers the chosen landmarks' rotated bounding box times a scale.
    """
    options = op.options
    points = landmarks[0, :, :2]
    across = points[options["right_rotation_idx"]] - points[options["left_rotation_idx"]]
    turn = options["target_rotation_radians"] - jnp.arctan2(across[1], across[0])
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    rotation = jnp.array([[cos, -sin], [sin, cos]])
    # Small products are written as sums: no device may round them to lower precision.
    rotated = (points[np.asarray(options["subset_idxs"])][:, None, :] * rotation).sum(-1)
    high, low = rotated.max(0), rotated.min(0)
    center = (rotation * ((high + low) / 2)[:, None]).sum(0)
    size = jnp.array([options["output_width"], options["output_height"]], landmarks.dtype)
    scale = jnp.array([options["scale_x"], options["scale_y"]], landmarks.dtype)
    linear = rotation.T * ((high - low) * scale / size)
    shift = center - (linear * (size / 2)).sum(1)
    return jnp.eye(4).at[:2, :2].set(linear).at[:2, 3].set(shift)[None]


def transform_tensor(
    op: Op, x: Float[Array, "1 H W C"], matrix: Float[Array, "1 4 4"]
) -> Float[Array, "1 h w C"]:
    """TransformTensorBilinear: sample the patch; zero outside the feature map."""
    _, height, width, _ = x.shape
    linear, shift = matrix[0, :2, :2], matrix[0, :2, 3]
    rows, columns = jnp.mgrid[: op.shape[1], : op.shape[2]]
    patch = jnp.stack([columns, rows], -1) + 0.5  # pixel centres
    position = (patch[..., None, :] * linear).sum(-1) + shift - 0.5
    limit = jnp.array([width - 1, height - 1])
    inside = jnp.all((position >= 0) & (position <= limit), -1)
    corner = jnp.floor(position)
    right, down = jnp.moveaxis(position - corner, -1, 0)[..., None]
    left_top = jnp.clip(corner, 0, limit).astype(int)
    column, row = left_top[..., 0], left_top[..., 1]
    column1, row1 = jnp.minimum(column + 1, width - 1), jnp.minimum(row + 1, height - 1)
    top = (1 - right) * x[0, row, column] + right * x[0, row, column1]
    bottom = (1 - right) * x[0, row1, column] + right * x[0, row1, column1]
    return jnp.where(inside[..., None], (1 - down) * top + down * bottom, 0)[None]


def transform_landmarks(
    _: Op, landmarks: Float[Array, "1 L D"], matrix: Float[Array, "1 4 4"]
) -> Float[Array, "1 L D"]:
    """TransformLandmarks: carry x and y from the patch to the image, leave the rest."""
    points = (landmarks[..., None, :2] * matrix[0, :2, :2]).sum(-1) + matrix[0, :2, 3]
    return jnp.concatenate([points, landmarks[..., 2:]], -1)


KERNELS: dict[str, Callable[..., Array]] = {
    "Landmarks2TransformMatrix": transform_matrix,
    "TransformLandmarks": transform_landmarks,
    "TransformTensorBilinear": transform_tensor,
}
