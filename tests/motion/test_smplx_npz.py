"""SMPL-X `.npz` files: layouts, worlds, rates, what is refused, and writing."""

import zipfile

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxavatar.errors import InputError
from jaxavatar.motion import MotionClip, load_motion, save_motion, smplx_npz
from jaxavatar.motion.layout import Reading

PELVIS = Reading().pelvis
FRAMES = 6


@pytest.fixture
def pose(made_pose):
    return made_pose(FRAMES)


@pytest.fixture
def walk():
    return np.random.default_rng(1).normal(size=(FRAMES, 3))


def written(path, **arrays):
    np.savez(path, allow_pickle=True, **arrays)
    return path


def test_one_array(tmp_path, pose, walk):
    rows = pose.reshape(FRAMES, -1)
    file = written(tmp_path / "a.npz", poses=rows, trans=walk, mocap_frame_rate=30.0)
    clip = load_motion(file)
    np.testing.assert_array_equal(clip.rotations, pose)
    np.testing.assert_allclose(clip.translation - PELVIS, walk)
    assert clip.fps == 30 and clip.present.all() and clip.messages == () and clip.camera is None
    file = written(tmp_path / "b.npz", poses=pose.astype(np.float32), transl=walk, fps=[60])
    assert load_motion(file, fps=10).fps == 60  # what the file states counts


@pytest.mark.parametrize("names", ["smplx", "amass"])
def test_an_array_per_part(tmp_path, pose, walk, names):
    flat = pose.reshape(FRAMES, -1)
    if names == "smplx":
        keys = ("global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose")
        keys += ("left_hand_pose", "right_hand_pose")
        cuts = np.cumsum([3, 63, 3, 3, 3, 45])
    else:
        keys = ("root_orient", "pose_body", "pose_jaw", "pose_eye", "pose_hand")
        cuts = np.cumsum([3, 63, 3, 6])
    parts = dict(zip(keys, np.split(flat, cuts, axis=1), strict=True))
    others = {"betas": np.zeros(16), "labels": np.array([{"walk": 1}], dtype=object)}
    file = written(tmp_path / "a.npz", **parts, **others, trans=walk, mocap_framerate=120)
    clip = load_motion(file)
    np.testing.assert_array_equal(clip.rotations, pose)
    assert clip.fps == 120 and clip.messages == ()


@pytest.mark.parametrize(("width", "hands"), [(156, True), (72, False), (66, False)])
def test_fewer_joints(tmp_path, pose, walk, width, hands):
    body, fingers = pose[:, :22], pose[:, 25:]
    rows = np.concatenate([body, fingers if hands else np.ones((FRAMES, 2, 3))], axis=1)
    rows = rows.reshape(FRAMES, -1)[:, :width]
    clip = load_motion(written(tmp_path / "a.npz", poses=rows, trans=walk, fps=25))
    np.testing.assert_array_equal(clip.rotations[:, :22], body)
    np.testing.assert_array_equal(clip.rotations[:, 25:], fingers if hands else 0 * fingers)
    assert not clip.rotations[:, 22:25].any() and not clip.present[22:25].any()
    assert clip.present[:22].all() and clip.present[25:].all() == hands
    assert "no jaw, no left eye, no right eye" in clip.messages[0]
    assert ("no left hand" in clip.messages[0]) != hands
    smpl = {"global_orient": rows[:, :3], "body_pose": np.ones((FRAMES, 69)), "trans": walk}
    clip = load_motion(written(tmp_path / "b.npz", **smpl, fps=25))
    assert clip.rotations.shape == (FRAMES, 55, 3) and clip.present.sum() == 22


def test_one_pose(tmp_path, pose, walk):
    clip = load_motion(written(tmp_path / "a.npz", poses=pose[0].reshape(-1), trans=walk[0]))
    np.testing.assert_array_equal(clip.rotations, pose[:1])
    assert "30 frames per second" in clip.messages[0]


def test_what_is_assumed_is_said(tmp_path, pose):
    arrays = {"poses": pose.reshape(FRAMES, -1), "expressions": np.zeros((FRAMES, 100))}
    file = written(tmp_path / "a.npz", **arrays, flat_hand_mean=False)
    clip = load_motion(file, fps=24)
    assert clip.fps == 24
    np.testing.assert_allclose(clip.translation, np.tile(PELVIS, (FRAMES, 1)))
    said = " / ".join(clip.messages)
    assert "no translation" in said and "expressions" in said and "mean hand" in said


@pytest.mark.parametrize("axis", ["z", "y"])
def test_worlds(tmp_path, made_pose, walk, axis):
    """A person who faces one of the world's axes, on average upright."""
    pose = made_pose(FRAMES)
    # Columns are the person's left, up and front in the world.
    world = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]] if axis == "z" else np.eye(3))
    nod = Rotation.from_rotvec(np.linspace(0, 0.4, FRAMES)[:, None] * [1, 0, 0])
    pose[:, 0] = (Rotation.from_matrix(world) * nod).as_rotvec()
    rows = pose.reshape(FRAMES, -1)
    clip = load_motion(written(tmp_path / "a.npz", poses=rows, trans=walk, fps=25))
    assert f"{axis} up" in clip.messages[-1]
    expected = (Rotation.from_rotvec([np.pi, 0, 0]) * nod).as_matrix()
    actual = Rotation.from_rotvec(clip.rotations[:, 0]).as_matrix()
    np.testing.assert_allclose(actual, expected, atol=1e-9)
    left, up, front = ((walk - walk[0]) @ world).T
    expected = np.stack([left, -up, 3 - front], 1)
    np.testing.assert_allclose(clip.translation, expected, atol=1e-9)
    np.testing.assert_array_equal(clip.rotations[:, 1:], pose[:, 1:])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"trans": np.zeros((4, 3))}, "lacks the pose of the root and the body"),
        ({"global_orient": np.zeros((4, 3))}, "lacks the pose of the body"),
        ({"poses": np.zeros((4, 100))}, "poses in .* has 100 numbers per frame"),
        ({"poses": np.zeros((0, 165))}, "no frames"),
        ({"poses": np.full((4, 165), np.nan)}, "not finite in frame 0"),
        ({"poses": np.full((4, 165), 57.0)}, "radians"),
        ({"poses": np.zeros((4, 165)), "trans": np.zeros((5, 3))}, "4 to 5 frames"),
        ({"poses": np.zeros((4, 165)), "fps": np.zeros(2)}, "not one number"),
        ({"poses": np.zeros((4, 165)), "fps": 0}, "claims 0 frames per second"),
        ({"poses": np.array([{}], dtype=object)}, "damaged, or pickled"),
        ({"poses": np.array(["a"])}, "poses in .* is no array of numbers"),
        ({"poses": np.zeros((4, 165), complex)}, "poses in .* is no array of numbers"),
        (
            {
                "global_orient": np.zeros((4, 3)),
                "body_pose": np.zeros((4, 63)),
                "left_hand_pose": np.zeros((4, 12)),
            },
            "left_hand_pose in .* 12 numbers per frame .principal components.*use_pca=False",
        ),
    ],
)
def test_what_is_refused(tmp_path, arrays, said):
    file = written(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        load_motion(file)


def test_damaged_files(tmp_path, pose, monkeypatch):
    file = written(tmp_path / "a.npz", poses=pose)
    whole = file.read_bytes()
    for text in (b"", b"no zip", whole[:300], whole[: len(whole) // 2]):
        file.write_bytes(text)
        with pytest.raises(InputError, match=r"is not an \.npz file"):
            load_motion(file)
    file.write_bytes(whole.replace(whole[400:420], bytes(20)))  # a wrong checksum
    with pytest.raises(InputError, match="damaged, or pickled"):
        load_motion(file)
    claims = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 165), }"
    for content in (b"no array", (claims % 10**12).ljust(127) + b"\n", (claims % 9).ljust(127)):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("poses.npy", content)
        with pytest.raises(InputError, match=r"damaged|no array of numbers"):
            load_motion(file)
    file.write_bytes(whole)
    monkeypatch.setattr(smplx_npz, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="more than"):
        load_motion(file)


def test_writing_and_reading_again(tmp_path, pose, walk):
    clip = MotionClip(pose, walk, np.ones(55, bool), 25.0, None, ())
    save_motion(tmp_path / "a.npz", clip)
    again = load_motion(tmp_path / "a.npz")
    np.testing.assert_allclose(again.rotations, pose, atol=1e-6)
    np.testing.assert_allclose(again.translation, walk, atol=1e-6)
    assert again.fps == 25 and again.messages == () and again.present.all()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert stored["poses"].shape == (FRAMES, 165) and str(stored["gender"]) == "neutral"
        assert {"trans", "betas", "mocap_frame_rate"} <= set(stored)
