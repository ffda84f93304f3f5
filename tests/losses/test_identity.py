"""Embeddings of faces against an independent float64 implementation, and the loss's gradient."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from jaxavatar import losses
from jaxavatar.errors import InputError
from jaxavatar.perception import face_identity

WIDTHS = {"conv32": 4, "conv64": 6, "conv128": 8, "conv256": 10}
SIDE = face_identity.SIZE


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    made, before = {}, 3
    for name in ("conv32_down", *face_identity.LAYERS):
        width = WIDTHS[name.split("_")[0]]
        parts = [""] if name == "conv32_down" else ["/conv1", "/conv2"]
        for part in parts:
            size = 3 if part else 7
            shape = (size, size, before, width)
            scale = np.sqrt(2 / (size * size * before))
            made[f"{name}{part}/conv/filters"] = scale * rng.normal(size=shape)
            made[f"{name}{part}/conv/bias"] = 0.1 * rng.normal(size=width)
            made[f"{name}{part}/scale/weights"] = rng.uniform(0.5, 1.0, width)
            made[f"{name}{part}/scale/biases"] = 0.1 * rng.normal(size=width)
            before = width
    made["fc"] = rng.normal(size=(before, 128))
    return made


def windows(x, size, stride):
    return sliding_window_view(x, (size, size), (0, 1))[::stride, ::stride]


def embedding(params, face):
    def layer(name, x, stride):
        kernel = params[f"{name}/conv/filters"]
        if stride == 1:
            x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        y = np.einsum("ijcab,abcd->ijd", windows(x, len(kernel), stride), kernel)
        y = y + params[f"{name}/conv/bias"]
        return y * params[f"{name}/scale/weights"] + params[f"{name}/scale/biases"]

    x = layer("conv32_down", face - np.array([122.782, 117.001, 104.298]) / 255, 2)
    x = windows(np.maximum(x, 0), 3, 2).max((-2, -1))
    for name in face_identity.LAYERS:
        stride = 2 if "down" in name else 1
        y = layer(f"{name}/conv2", np.maximum(layer(f"{name}/conv1", x, stride), 0), 1)
        if stride == 2:
            x = windows(x, 2, 2).mean((-2, -1))
        total = np.zeros(np.maximum(x.shape, y.shape))
        for part in (x, y):
            total[tuple(slice(size) for size in part.shape)] += part
        x = np.maximum(total, 0)
    return x.mean((0, 1)) @ params["fc"]


def test_loss_against_numpy_and_finite_differences(params):
    rng = np.random.default_rng(1)
    ours, theirs, way = rng.random((3, 1, SIDE, SIDE, 3))
    a, b = embedding(params, ours[0]), embedding(params, theirs[0])
    expected = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    with jax.enable_x64(True):
        held = jax.tree.map(jnp.asarray, params)
        goal = jnp.asarray(theirs)
        graded = jax.jit(jax.value_and_grad(lambda x: losses.identity(held, x, goal)))
        value, slope = graded(jnp.asarray(ours))
        near = [float(graded(jnp.asarray(ours + e * way))[0]) for e in (1e-6, -1e-6)]
        along = float(jnp.sum(slope * way))
    assert expected > 1e-4
    np.testing.assert_allclose(value, expected, rtol=1e-6)  # the mean colour is float32
    np.testing.assert_allclose(along, (near[0] - near[1]) / 2e-6, rtol=1e-4)


def test_files_are_read(tmp_path):
    coding = {"dtype": "uint8", "scale": 0.5, "min": -1.0}
    entries = [
        {"name": "a", "shape": [2], "dtype": "float32", "quantization": coding},
        {"name": "fc", "shape": [1, 2], "dtype": "float32"},
    ]
    manifest = tmp_path / "face_recognition_model-weights_manifest.json"
    manifest.write_text(json.dumps([{"weights": entries}]))
    numbers = tmp_path / "face_recognition_model.bin"
    numbers.write_bytes(bytes([0, 4]) + np.array([3, 7], "<f4").tobytes())
    read = face_identity.load(tmp_path)
    np.testing.assert_array_equal(read["a"], [-1.0, 1.0])
    np.testing.assert_array_equal(read["fc"], [[3.0, 7.0]])
    numbers.write_bytes(b"1")
    with pytest.raises(InputError, match="face-api"):
        face_identity.load(tmp_path)
