"""SMPL-X files against a float64 numpy rendition of smplx's arithmetic and its own outputs."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxavatar.body import (
    PARENTS,
    load_smplx,
    local_transforms,
    pose_vertices,
    posed_joints,
    shaped,
    skinning_transforms,
)
from jaxavatar.errors import InputError
from jaxavatar.structs import BodyPose

J, V = 55, 40
PARITY = pathlib.Path(__file__).parents[2] / "../shared/data/parity"


def made_arrays(rng, width=400):
    """Return a body of random numbers under the names and shapes of SMPL-X 1.1."""
    kintree = np.stack([np.array(PARENTS, np.int64) % 2**32, np.arange(J)])
    return {
        "v_template": rng.normal(size=(V, 3)),
        "shapedirs": 0.1 * rng.normal(size=(V, 3, width)),
        "posedirs": 0.02 * rng.normal(size=(V, 3, 486)),
        "J_regressor": rng.dirichlet(np.ones(V), size=J),
        "weights": rng.dirichlet(0.1 * np.ones(J), size=V),
        "kintree_table": kintree.astype(np.uint32),
        "f": rng.integers(V, size=(30, 3)).astype(np.uint32),
        "hands_meanl": rng.normal(size=45),
        "hands_meanr": rng.normal(size=45),
        "joint2num": np.array({"Pelvis": 0}, dtype=object),
    }


def oracle(arrays, betas, expression, rotations, translation, split):
    """Follow smplx's `lbs`: blend shapes, regressed joints, pose blend shapes, the chain."""
    dirs = arrays["shapedirs"]
    vertices = arrays["v_template"] + dirs[:, :, : len(betas)] @ betas
    vertices = vertices + dirs[:, :, split : split + len(expression)] @ expression
    joints = arrays["J_regressor"] @ vertices
    matrices = Rotation.from_rotvec(rotations).as_matrix()
    vertices = vertices + arrays["posedirs"] @ (matrices[1:] - np.eye(3)).reshape(-1)
    chain = []
    for m, parent in enumerate(PARENTS):
        step = np.eye(4)
        step[:3, :3] = matrices[m]
        step[:3, 3] = joints[m] - (joints[parent] if parent >= 0 else 0)
        chain.append(chain[parent] @ step if parent >= 0 else step)
    relative = np.stack(chain)
    relative[:, :3, 3] -= np.einsum("jab,jb->ja", relative[:, :3, :3], joints)
    blended = np.einsum("vj,jab->vab", arrays["weights"], relative)
    homogeneous = np.concatenate([vertices, np.ones((len(vertices), 1))], axis=1)
    return np.einsum("vab,vb->va", blended, homogeneous)[:, :3] + translation


@pytest.mark.parametrize(("width", "split"), [(400, 300), (20, 10)])
def test_matches_the_arithmetic_of_smplx(tmp_path, width, split):
    rng = np.random.default_rng(0)
    arrays = made_arrays(rng, width)
    np.savez(tmp_path / "model.npz", allow_pickle=True, **arrays)
    betas, expression = rng.normal(size=10), rng.normal(size=10)
    rotations, translation = 0.5 * rng.normal(size=(J, 3)), rng.normal(size=3)

    model = load_smplx(tmp_path / "model.npz")
    pose = BodyPose(*map(jnp.float32, (rotations, translation, expression)))
    actual = jax.jit(pose_vertices)(model, *shaped(model, betas=jnp.float32(betas)), pose)
    expected = oracle(arrays, betas, expression, rotations, translation, split)
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    hands = np.concatenate([arrays["hands_meanl"], arrays["hands_meanr"]]).reshape(30, 3)
    np.testing.assert_allclose(model.hand_mean, hands, rtol=1e-6)


def test_pose_blend_shapes_count(tmp_path):
    """The comparison above would not notice if both sides ignored `posedirs`."""
    arrays = made_arrays(np.random.default_rng(0))
    np.savez(tmp_path / "model.npz", allow_pickle=True, **arrays)
    model = load_smplx(tmp_path / "model.npz")
    pose = BodyPose(jnp.full((J, 3), 0.3), jnp.zeros(3), jnp.zeros(10))
    with_dirs = pose_vertices(model, model.vertices, model.joints, pose)
    without = pose_vertices(
        dataclasses.replace(model, pose_dirs=model.pose_dirs[:0]),
        model.vertices,
        model.joints,
        pose,
    )
    assert jnp.abs(with_dirs - without).max() > 0.01


def without(key):
    return lambda arrays: arrays.pop(key)


def changed(**new):
    return lambda arrays: arrays.update(new)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("posedirs"), "lacks posedirs"),
        (changed(weights=np.zeros((V, 24))), r"weights in .* has shape \(40, 24\)"),
        (changed(shapedirs=np.zeros((V, 3, 30))), "shapedirs in .* has shape"),
        (changed(f=np.array([None, 1], dtype=object)), "f in .* is pickled"),
        (changed(kintree_table=np.zeros((2, J), np.uint32)), "joints in .* are not those"),
    ],
)
def test_other_files_are_refused_with_a_sentence(tmp_path, spoil, message):
    arrays = made_arrays(np.random.default_rng(0))
    spoil(arrays)
    np.savez(tmp_path / "model.npz", allow_pickle=True, **arrays)
    with pytest.raises(InputError, match=message):
        load_smplx(tmp_path / "model.npz")


def test_missing_and_pickle_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no SMPL-X model at"):
        load_smplx(tmp_path / "nothing.npz")
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04}.")
    with pytest.raises(InputError, match="pickles are not read"):
        load_smplx(tmp_path / "model.pkl")


def test_too_many_betas_are_refused(tmp_path):
    np.savez(tmp_path / "m.npz", allow_pickle=True, **made_arrays(np.random.default_rng(0)))
    with pytest.raises(InputError, match="300 betas, not 301"):
        load_smplx(tmp_path / "m.npz", n_betas=301)


def parity(name):
    path = PARITY / f"{name}.npz"
    if not path.is_file():
        pytest.skip("the reference outputs are not here")
    return np.load(path)


def test_rodrigues_matches_the_reference():
    data = parity("batch_rodrigues")
    local = local_transforms(jnp.asarray(data["in/rot_vecs"]), jnp.zeros(3))
    np.testing.assert_allclose(local.rotation().as_matrix(), data["out64/R"], rtol=1e-4, atol=2e-5)


def test_chain_matches_the_reference():
    data = parity("batch_rigid_transform")
    for b in range(2):
        joints = jnp.asarray(data["in/joints"][b])
        local = jaxlie.SE3.from_rotation(
            jaxlie.SO3.from_matrix(jnp.asarray(data["in/rot_mats"][b]))
        )
        for actual, expected in (
            (skinning_transforms(joints, local, PARENTS), data["out/rel_transforms"][b, :, :3]),
            (posed_joints(joints, local, PARENTS), data["out/posed_joints"][b]),
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-5)


def test_whole_body_matches_the_reference(tmp_path):
    """The reference's body, written as a model file, read back and posed."""
    data = parity("lbs")
    n = len(data["w/v_template"])
    arrays = made_arrays(np.random.default_rng(0)) | {
        "v_template": data["w/v_template"],
        "shapedirs": np.pad(data["w/shapedirs"], ((0, 0), (0, 0), (0, 400 - 16))),
        "posedirs": data["w/posedirs"].T.reshape(n, 3, 486),
        "J_regressor": data["w/J_regressor"],
        "weights": data["w/lbs_weights"],
    }
    np.savez(tmp_path / "model.npz", allow_pickle=True, **arrays)
    model = load_smplx(tmp_path / "model.npz", n_betas=16)
    for b in range(2):
        vertices, joints = shaped(model, betas=jnp.asarray(data["in/betas"][b]))
        rotations = jnp.asarray(data["in/pose"][b].reshape(J, 3))
        pose = BodyPose(rotations, jnp.zeros(3), jnp.zeros(10))
        actual = pose_vertices(model, vertices, joints, pose)
        np.testing.assert_allclose(actual, data["out64/verts"][b], rtol=1e-4, atol=2e-5)
        actual = posed_joints(joints, local_transforms(rotations, jnp.zeros(3)), PARENTS)
        np.testing.assert_allclose(actual, data["out64/joints"][b], rtol=1e-4, atol=2e-5)
