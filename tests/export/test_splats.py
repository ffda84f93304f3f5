"""Exported Gaussians, read back by gsply and pygltflib."""

from typing import Any

import numpy as np
import pytest
from pallas_splat import Gaussians
from scipy.special import expit

from jaxavatar.errors import InputError
from jaxavatar.export.glb import EXTENSION, save_glb
from jaxavatar.export.ply import save_ply
from jaxavatar.export.splats import SH_C0, facing_forward, make_splats
from jaxavatar.export.spz import save_spz

gsply = pytest.importorskip("gsply")
pygltflib = pytest.importorskip("pygltflib")

N = 200
FLIP = np.diag([1.0, -1.0, -1.0])
ORIGIN = np.array([0.1, 0.4, 3.0])


@pytest.fixture(scope="module")
def gaussians():
    """Skinned and stretched, some flat, one mirrored by its map."""
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.002, 0.05, (N, 3))
    scales[0, 2] = 0.0
    linear = np.eye(3) + 0.3 * rng.normal(size=(N, 3, 3))
    linear[1] = np.diag([1, 1, -1])
    opacities = rng.uniform(0, 1, N)
    opacities[:2] = 0, 1
    arrays: dict[str, Any] = dict(
        means=rng.normal(size=(N, 3)) * [0.5, 1, 0.2] + [0, 0, 3],
        quats=rng.normal(size=(N, 4)),
        scales=scales,
        opacities=opacities,
        colors=rng.uniform(0, 1, (N, 3)),
        linear=linear,
    )
    return Gaussians(**arrays)


def matrices(quats):
    """Rotation matrices of unit quaternions wxyz: the columns are q times the axes."""
    w, x, y, z = np.asarray(quats, np.float64).T
    product = {
        (0, 0): w * w + x * x - y * y - z * z,
        (1, 1): w * w - x * x + y * y - z * z,
        (2, 2): w * w - x * x - y * y + z * z,
        (0, 1): 2 * (x * y - w * z),
        (1, 0): 2 * (x * y + w * z),
        (0, 2): 2 * (x * z + w * y),
        (2, 0): 2 * (x * z - w * y),
        (1, 2): 2 * (y * z - w * x),
        (2, 1): 2 * (y * z + w * x),
    }
    return np.stack([[product[i, j] for j in range(3)] for i in range(3)]).transpose(2, 0, 1)


def covariances(quats, scales, linear=None):
    axes = matrices(quats / np.linalg.norm(quats, axis=1, keepdims=True))
    axes = axes * np.asarray(scales, np.float64)[:, None]
    axes = axes if linear is None else linear @ axes
    return axes @ axes.transpose(0, 2, 1)


@pytest.fixture(scope="module")
def expected(gaussians):
    return covariances(gaussians.quats, gaussians.scales, gaussians.linear)


def test_the_covariance_stays_the_same(gaussians, expected):
    splats = make_splats(gaussians)
    np.testing.assert_allclose(covariances(splats.quats, splats.scales), expected, atol=1e-12)
    assert (splats.scales > 0).all()
    np.testing.assert_allclose(np.linalg.norm(splats.quats, axis=1), 1)


def test_ply_in_the_frame_of_the_camera(gaussians, expected, tmp_path):
    save_ply(tmp_path / "a.ply", make_splats(gaussians))
    read = gsply.plyread(tmp_path / "a.ply")
    np.testing.assert_allclose(read.means, gaussians.means, rtol=1e-6)
    np.testing.assert_allclose(expit(read.opacities), gaussians.opacities, atol=2e-6)
    np.testing.assert_allclose(read.sh0 * SH_C0 + 0.5, gaussians.colors, atol=1e-6)
    got = covariances(read.quats, np.exp(read.scales))
    np.testing.assert_allclose(got, expected, atol=1e-6 * expected.max())


def test_spz_faces_forward(gaussians, expected, tmp_path):
    """As exact as its numbers: 24 bits, 8 bits, steps of 1/16 in log-scales, rotations of 10."""
    save_spz(tmp_path / "a.spz", facing_forward(make_splats(gaussians), ORIGIN))
    read = gsply.read_spz(tmp_path / "a.spz")
    np.testing.assert_allclose(read.means, (gaussians.means - ORIGIN) @ FLIP, atol=1e-5)
    np.testing.assert_allclose(expit(read.opacities), gaussians.opacities, atol=0.003)
    np.testing.assert_allclose(read.sh0 * SH_C0 + 0.5, gaussians.colors, atol=0.004)
    got = covariances(read.quats, np.exp(read.scales))
    want = FLIP @ expected @ FLIP
    largest = np.abs(want).max(axis=(1, 2))
    assert (np.abs(got - want).max(axis=(1, 2)) < 0.08 * largest).all()
    mean_error = np.mean(np.abs(got - want).max(axis=(1, 2)) / largest)
    assert mean_error < 0.04


def test_glb_faces_forward(gaussians, expected, tmp_path):
    save_glb(tmp_path / "a.glb", facing_forward(make_splats(gaussians), ORIGIN))
    document = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert document.extensionsUsed == [EXTENSION]
    (primitive,) = document.meshes[0].primitives
    assert primitive.mode == pygltflib.POINTS
    assert primitive.extensions[EXTENSION]["colorSpace"] == "srgb_rec709_display"
    attributes = vars(primitive.attributes)

    def array(name):
        accessor = document.accessors[attributes[name]]
        view = document.bufferViews[accessor.bufferView]
        kind = {pygltflib.FLOAT: np.float32, pygltflib.UNSIGNED_BYTE: np.uint8}
        blob = document.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
        return np.frombuffer(blob, kind[accessor.componentType]).reshape(accessor.count, -1)

    means = array("POSITION")
    np.testing.assert_allclose(means, (gaussians.means - ORIGIN) @ FLIP, atol=1e-6)
    bounds = document.accessors[attributes["POSITION"]]
    np.testing.assert_array_equal([bounds.min, bounds.max], [means.min(0), means.max(0)])
    quats = array(f"{EXTENSION}:ROTATION")[:, [3, 0, 1, 2]]
    got = covariances(quats, array(f"{EXTENSION}:SCALE"))
    np.testing.assert_allclose(got, FLIP @ expected @ FLIP, atol=1e-6 * expected.max())
    np.testing.assert_allclose(array(f"{EXTENSION}:OPACITY")[:, 0], gaussians.opacities, atol=1e-7)
    coefficients = array(f"{EXTENSION}:SH_DEGREE_0_COEF_0")
    np.testing.assert_allclose(coefficients * SH_C0 + 0.5, gaussians.colors, atol=1e-6)
    shown = array("COLOR_0") / 255
    np.testing.assert_allclose(shown[:, 3], gaussians.opacities, atol=0.002)
    assert shown[np.argmax(gaussians.colors[:, 0]), 0] == shown[:, 0].max()


@pytest.mark.parametrize("save", [save_ply, save_spz, save_glb])
def test_nothing_is_left_where_a_file_cannot_be_written(gaussians, save, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        save(tmp_path / "taken", make_splats(gaussians))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
