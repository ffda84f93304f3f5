from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import ndimage

from jaxavatar.perception import tflite_attention, tflite_ops
from jaxavatar.perception.tflite_ops import Op


def op(shape: tuple[int, ...] = (), **options: Any) -> Op:
    return Op("", (), 0, shape, {"FusedActivationFunction": 0, **options})


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def window(stride=1, padding="SAME", kernel=1, dilation=1) -> dict[str, Any]:
    return {
        "Padding": int(padding == "VALID"),
        "StrideH": stride,
        "StrideW": stride,
        "DilationHFactor": dilation,
        "DilationWFactor": dilation,
        "FilterHeight": kernel,
        "FilterWidth": kernel,
    }


@pytest.mark.parametrize("channels", [(24, 28), (32, 64), (8, 16)])
def test_channel_padded_residual_is_right_under_jit(channels):
    """jaxlib 0.10.2 on CPU fuses this graph wrongly when channels are padded with jnp.pad."""
    size, (few, many) = 64, channels
    x, wide, point = random(1, size, size, few), random(few, 3, 3, few), random(many, 1, 1, few)
    wide, point = wide * 0.1, point * 0.2

    @jax.jit
    def graph(x):
        active = tflite_ops.KERNELS["RELU"](op(), x)
        y = tflite_ops.conv(op(**window()), active, wide)
        y = tflite_ops.conv(op(**window()), y, point)
        padding = np.array([[0, 0], [0, 0], [0, 0], [0, many - few]])
        y = y + tflite_ops.pad(op(), active, padding)
        return tflite_ops.pool(op(**window(2, kernel=2)), y, largest=True)

    result = graph(x)[0]
    active = np.maximum(np.asarray(x[0], np.float64), 0)
    kernel, mix = np.asarray(wide, np.float64), np.asarray(point, np.float64)[:, 0, 0]
    y = np.zeros((size, size, few))
    for i in range(few):
        for o in range(few):
            y[..., o] += ndimage.correlate(active[..., i], kernel[o, :, :, i], mode="constant")
    y = y @ mix.T
    y[..., :few] += active
    expected = y.reshape(size // 2, 2, size // 2, 2, many).max((1, 3))
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("stride", "padding", "multiplier"), [(1, "SAME", 1), (2, "SAME", 1), (2, "VALID", 3)]
)
def test_depthwise_matches_grouped_convolution(stride, padding, multiplier):
    x, w, bias = (
        random(1, 11, 8, 4),
        random(1, 5, 3, 4 * multiplier, seed=1),
        random(4 * multiplier),
    )
    expected = lax.conv_general_dilated(
        x,
        w.transpose(1, 2, 0, 3),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    )
    spec = op(shape=expected.shape, **window(stride, padding))
    np.testing.assert_allclose(tflite_ops.depthwise(spec, x, w, bias), expected + bias, atol=1e-5)


def test_padding_does_not_count_in_the_average():
    x = jnp.ones((1, 5, 5, 2))
    pooled = tflite_ops.pool(op(**window(2, kernel=3)), x, largest=False)
    np.testing.assert_allclose(pooled, np.ones((1, 3, 3, 2)), atol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_transposed_conv_is_the_adjoint_of_the_strided_one(size):
    """<conv(y), x> = <y, transposed_conv(x)> for SAME padding and stride 2."""
    x, y, w = random(1, 4, 4, 3), random(1, 8, 8, 2, seed=1), random(2, size, size, 3, seed=2)
    options = {"padding": 1, "stride_h": 2, "stride_w": 2}
    up = tflite_ops.transposed_conv(op(shape=(1, 8, 8, 2), **options), x, w, jnp.zeros(2))
    down = lax.conv_general_dilated(
        y, w.transpose(1, 2, 0, 3), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose((np.asarray(down) * x).sum(), (np.asarray(up) * y).sum(), rtol=1e-4)


def test_half_pixel_resize_matches_jax():
    x = random(1, 6, 5, 2)
    resized = tflite_ops.resize(
        op(AlignCorners=False, HalfPixelCenters=True), x, np.array([12, 15])
    )
    np.testing.assert_allclose(resized, jax.image.resize(x, (1, 12, 15, 2), "linear"), atol=1e-5)


# The attention graph's own operations, against float64 numpy written from their definitions.

PATCH = {
    "left_rotation_idx": 0,
    "right_rotation_idx": 3,
    "target_rotation_radians": 0.0,
    "subset_idxs": [0, 1, 2, 3, 4],
    "scale_x": 1.5,
    "scale_y": 1.25,
    "output_width": 16,
    "output_height": 8,
}


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_transform_matrix_frames_the_landmarks():
    landmarks = random(1, 9, 3) * 10
    matrix = np.asarray(tflite_attention.transform_matrix(op(**PATCH), landmarks))[0]
    points = np.asarray(landmarks[0, :5, :2], np.float64)
    across = points[3] - points[0]
    level = points @ rotation(-np.arctan2(across[1], across[0])).T
    middle, half = (level.max(0) + level.min(0)) / 2, (level.max(0) - level.min(0)) / 2
    half *= [1.5, 1.25]
    corners = middle + half * [[-1, -1], [1, -1], [-1, 1], [1, 1]]
    expected = corners @ rotation(np.arctan2(across[1], across[0])).T
    patch = np.array([[0, 0], [16, 0], [0, 8], [16, 8]])
    np.testing.assert_allclose(patch @ matrix[:2, :2].T + matrix[:2, 3], expected, atol=1e-4)
    np.testing.assert_array_equal(matrix[2:], np.eye(4)[2:])


@pytest.mark.parametrize("shift", [(3.0, 4.0), (-2.0, 9.0)])
def test_transform_tensor_samples_bilinearly_and_is_zero_outside(shift):
    x = random(1, 12, 14, 3)
    matrix = np.eye(4, dtype=np.float32)
    matrix[:2, :2], matrix[:2, 3] = 0.7 * rotation(0.4), shift
    sampled = tflite_attention.transform_tensor(
        op(shape=(1, 8, 8, 3)), x, jnp.asarray(matrix[None])
    )[0]
    v, u = np.mgrid[:8, :8] + 0.5
    at = np.stack([u, v], -1) @ matrix[:2, :2].T.astype(np.float64) + shift - 0.5
    inside = np.all((at >= 0) & (at <= [13, 11]), -1)
    assert inside.any()
    for channel in range(3):
        plane = ndimage.map_coordinates(
            np.asarray(x[0, ..., channel], np.float64),
            [at[..., 1], at[..., 0]],
            order=1,
            mode="nearest",
        )
        np.testing.assert_allclose(sampled[..., channel], np.where(inside, plane, 0), atol=1e-5)


def test_transform_landmarks_moves_x_and_y_only():
    landmarks, matrix = random(1, 7, 3), random(1, 4, 4, seed=1)
    moved = np.asarray(tflite_attention.transform_landmarks(op(), landmarks, matrix))[0]
    flat = np.column_stack([landmarks[0, :, :2], np.zeros(7), np.ones(7)]).astype(np.float64)
    np.testing.assert_allclose(
        moved[:, :2], (flat @ np.asarray(matrix[0], np.float64).T)[:, :2], atol=1e-5
    )
    np.testing.assert_array_equal(moved[:, 2], landmarks[0, :, 2])
