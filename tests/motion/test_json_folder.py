"""Folders of LHM and PERSONA: values, order, cameras, and every way to be wrong."""

import dataclasses
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxavatar.body import load_template
from jaxavatar.errors import InputError
from jaxavatar.motion import json_folder, load_motion, motion_camera
from jaxavatar.motion.json_folder import read_folder
from jaxavatar.motion.layout import Reading

ROOT = pathlib.Path(__file__).parents[2]
PARITY = pathlib.Path(os.environ.get("JAXAVATAR_PARITY", ROOT / "../shared/data/parity"))
CAMERA = {"focal": [1200.0, 1210.0], "princpt": [360.0, 640.0], "img_size_wh": [720, 1280]}
PELVIS = Reading().pelvis


@pytest.fixture
def lhm(tmp_path, made_pose, as_frames, write_frames):
    """A folder of three frames; its rotations and translations."""
    rotations = made_pose(3)
    translation = np.array([[0.0, 0.2, 3.1], [0.01, 0.2, 3.1], [0.02, 0.2, 3.1]])
    frames = [frame | CAMERA | {"pad_ratio": 0.2} for frame in as_frames(rotations, translation)]
    write_frames(tmp_path / "walk" / "smplx_params", frames)
    return tmp_path / "walk", rotations, translation, frames


def test_recorded_sequence_of_lhm(tmp_path, write_frames):
    path = PARITY / "motion_sequence.npz"
    if not path.is_file():
        pytest.skip("the reference outputs are not here")
    with np.load(path) as data:
        inputs = {k.removeprefix("in/"): data[k].tolist() for k in data if k.startswith("in/")}
        expected = {k.removeprefix("out/"): data[k][0] for k in data if k.startswith("out/")}
    count = len(expected["smplx/trans"])
    frames = [dict(inputs, trans=[0.01 * k, *inputs["trans"][1:]]) for k in range(count)]
    write_frames(tmp_path / "smplx_params", frames)
    clip = load_motion(tmp_path)
    parts = ("root", "body", "jaw", "leye", "reye", "lhand", "rhand")
    pose = [expected[f"smplx/{part}_pose"].reshape(count, -1, 3) for part in parts]
    np.testing.assert_allclose(clip.rotations, np.concatenate(pose, 1), rtol=1e-4, atol=2e-5)
    offset = clip.translation - PELVIS
    np.testing.assert_allclose(offset, expected["smplx/trans"], rtol=1e-4, atol=2e-5)
    assert clip.camera is not None
    np.testing.assert_allclose(clip.camera.focal, expected["smplx/focal"])
    np.testing.assert_allclose(clip.camera.centre, expected["smplx/princpt"])
    np.testing.assert_array_equal(clip.camera.size, expected["smplx/img_size_wh"][0])
    camera = motion_camera(clip, size=max(clip.camera.size))
    np.testing.assert_allclose(camera.viewmat, np.linalg.inv(expected["render_c2ws"]))
    np.testing.assert_allclose(camera.K, expected["render_intrs"][:, :3, :3], rtol=1e-6)


def test_lhm(lhm):
    folder, rotations, translation, _ = lhm
    clip = load_motion(folder)
    np.testing.assert_allclose(clip.rotations, rotations)
    np.testing.assert_allclose(clip.translation - PELVIS, translation)
    assert clip.present.all() and clip.fps == 30 and clip.camera is not None
    assert clip.camera.size == (720, 1280)
    assert len(clip.messages) == 1 and "30 frames per second" in clip.messages[0]
    inner = load_motion(folder / "smplx_params", fps=24)
    np.testing.assert_array_equal(inner.rotations, clip.rotations)
    assert inner.fps == 24 and inner.messages == ()


def test_missing_parts_and_dropped_expressions_are_said(lhm, write_frames):
    folder, rotations, _, frames = lhm
    for frame in frames:
        del frame["lhand_pose"], frame["leye_pose"], frame["img_size_wh"]
        frame["expr"] = [0.3] * 100
    write_frames(folder / "smplx_params", frames)
    clip = load_motion(folder)
    np.testing.assert_allclose(clip.rotations[:, 40:], rotations[:, 40:])
    assert clip.present.sum() == 55 - 16 and not clip.present[25:40].any()
    assert "no left eye, no left hand" in clip.messages[1]
    assert "expressions" in clip.messages[2] and "dropped" in clip.messages[2]
    assert clip.camera is not None and clip.camera.size == (720, 1280)  # twice the centre


def test_order_and_limit(tmp_path, made_pose, as_frames, write_frames, monkeypatch):
    translation = np.arange(12.0)[:, None] * [0.01, 0, 0] + [0, 0, 3]
    frames = as_frames(made_pose(12), translation)
    write_frames(tmp_path / "smplx" / "params", frames, "{}.json")  # 1, 10, 11, 12, 2 as text
    clip = read_folder(tmp_path, Reading(fps=25))
    np.testing.assert_allclose(clip.translation - PELVIS, translation)
    monkeypatch.setattr(json_folder, "MAX_FILES", 5)
    clip = read_folder(tmp_path, Reading(fps=25))
    np.testing.assert_allclose(clip.translation - PELVIS, translation[:5])
    assert "12 frames: the first 5" in clip.messages[0]


@pytest.fixture
def persona(tmp_path, made_pose, as_frames, write_frames):
    rng = np.random.default_rng(5)
    rotations, translation = made_pose(4), rng.normal(size=(4, 3))
    extrinsic = Rotation.from_rotvec(0.3 * rng.normal(size=(4, 3)))
    shift = rng.normal(size=(4, 3)) + np.array([0, 0, 5])
    write_frames(tmp_path / "smplx" / "params", as_frames(rotations, translation), "{}.json")
    views = [
        {"R": R.tolist(), "t": t.tolist(), "focal": [900.0, 910.0], "princpt": [50.0, 40.0]}
        for R, t in zip(extrinsic.as_matrix(), shift, strict=True)
    ]
    write_frames(tmp_path / "cam_params", views, "{}.json")
    return tmp_path, rotations, translation, extrinsic, shift


def test_persona(persona):
    folder, rotations, translation, extrinsic, shift = persona
    clip = load_motion(folder, fps=30)
    pelvis = extrinsic * Rotation.from_rotvec(rotations[:, 0])
    actual = Rotation.from_rotvec(clip.rotations[:, 0])
    assert (pelvis.inv() * actual).magnitude().max() < 1e-9
    np.testing.assert_allclose(clip.rotations[:, 1:], rotations[:, 1:])
    # The pelvis itself is carried over, not SMPL-X's offset from its rest position.
    expected = extrinsic.apply(translation + PELVIS) + shift
    np.testing.assert_allclose(clip.translation, expected, atol=1e-12)
    assert clip.camera is not None and clip.camera.size == (100, 80)
    np.testing.assert_allclose(clip.camera.focal, [[900, 910]] * 4)
    assert any("mean hand" in message and "--smplx" in message for message in clip.messages)
    (folder / "images").mkdir()
    Image.new("RGB", (120, 90)).save(folder / "images" / "1.png")
    clip = load_motion(folder / "smplx" / "params")
    assert clip.camera is not None and clip.camera.size == (120, 90)


def test_persona_with_the_mean_hand(persona, smplx_model):
    folder, rotations, translation, extrinsic, shift = persona
    clip = read_folder(folder, Reading(30.0, smplx_model))
    mean = np.asarray(smplx_model.hand_mean)
    np.testing.assert_allclose(clip.rotations[:, 25:], rotations[:, 25:] + mean, atol=1e-6)
    pelvis = np.asarray(smplx_model.joints[0])
    expected = extrinsic.apply(translation + pelvis) + shift
    np.testing.assert_allclose(clip.translation, expected, atol=1e-6)
    assert clip.messages == ()


@pytest.fixture
def smplx_model():
    """The template with the two things that a reader wants of a user's SMPL-X model."""
    template = load_template()
    mean = jnp.asarray(0.2 * np.random.default_rng(6).normal(size=(30, 3)))
    joints = template.joints.at[0].set(jnp.array([0.003, -0.35, 0.012]))
    return dataclasses.replace(template, hand_mean=mean, joints=joints)


def test_persona_from_inside_its_folders(persona, monkeypatch):
    folder = persona[0]
    expected = load_motion(folder)
    (folder / "smplx").rename(folder / "smplx_optimized")
    (folder / "smplx_optimized" / "params").rename(folder / "smplx_optimized" / "smplx_params")
    (folder / "smplx_optimized" / "shape_param.json").write_text("[0.1, 0.2]")
    monkeypatch.chdir(folder / "smplx_optimized" / "smplx_params")
    for place in (folder, folder / "smplx_optimized", "."):
        clip = load_motion(place)
        np.testing.assert_array_equal(clip.rotations, expected.rotations)
        assert clip.camera is not None and clip.camera.size == (100, 80)


def test_persona_without_cameras(persona):
    folder, rotations, *_ = persona
    for file in (folder / "cam_params").iterdir():
        file.unlink()
    (folder / "cam_params").rmdir()
    clip = load_motion(folder)
    np.testing.assert_allclose(clip.rotations, rotations)
    assert clip.camera is None and any("no cameras" in message for message in clip.messages)


def damage(file: pathlib.Path, change):
    frame = json.loads(file.read_text())
    change(frame)
    file.write_text(json.dumps(frame))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.pop("trans"), "00002.json has no trans"),
        (lambda f: f.pop("rhand_pose"), "00002.json has no rhand_pose"),
        (lambda f: f.update(body_pose=f["body_pose"][:20]), "has 60 numbers, not 63"),
        (lambda f: f.update(lhand_pose=[0.0] * 12), "12 numbers .principal components"),
        (lambda f: f.update(trans=["a", 0, 0]), "trans in .* is no list of numbers"),
        (lambda f: f.update(root_pose=[[1, 2], [3]]), "is no list of numbers"),
        (lambda f: f.update(root_pose=[10**400, 0, 0]), "is no list of numbers"),
        (lambda f: f.update(trans=[0, float("nan"), 0]), "not finite in frame 1"),
        (lambda f: f.update(img_size_wh=[640, 480]), "image size changes"),
        (lambda f: f.update(img_size_wh=[0, 480]), "not in pixels"),
        (lambda f: f.update(focal=[-1, 5]), "focal length"),
    ],
)
def test_broken_frames(lhm, change, said):
    damage(lhm[0] / "smplx_params" / "00002.json", change)
    with pytest.raises(InputError, match=said):
        load_motion(lhm[0])


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "[" * 100_000])
def test_unreadable_frames(lhm, text):
    (lhm[0] / "smplx_params" / "00003.json").write_text(text)
    with pytest.raises(InputError, match=r"00003.json is not"):
        load_motion(lhm[0])


def test_binary_and_huge_frames(lhm, monkeypatch):
    file = lhm[0] / "smplx_params" / "00003.json"
    file.write_bytes(b"\xff\x00\xfe")
    with pytest.raises(InputError, match=r"00003.json is not JSON"):
        load_motion(lhm[0])
    file.write_bytes(b" " * 20_000)
    monkeypatch.setattr(json_folder, "MAX_BYTES", 19_999)
    with pytest.raises(InputError, match=r"00003.json is larger than"):
        load_motion(lhm[0])


def test_wrong_cameras(persona):
    folder = persona[0]
    damage(folder / "cam_params" / "1.json", lambda view: view.update(princpt=[float("nan"), 5]))
    with pytest.raises(InputError, match=r"princpt in .*1.json is not in pixels"):
        load_motion(folder)
    damage(folder / "cam_params" / "1.json", lambda view: view.update(princpt=[40, 50]))
    damage(folder / "cam_params" / "2.json", lambda view: view.update(R=[[2, 0, 0]] * 3))
    with pytest.raises(InputError, match="no rotation matrix"):
        load_motion(folder)
    (folder / "cam_params" / "2.json").unlink()
    with pytest.raises(InputError, match=r"cannot read .*2.json"):
        load_motion(folder)


def test_no_motion(tmp_path):
    with pytest.raises(InputError, match="there is no motion in"):
        load_motion(tmp_path)
    (tmp_path / "shape_param.json").write_text("[0.1]")
    with pytest.raises(InputError):
        load_motion(tmp_path)
    with pytest.raises(InputError, match="there is no motion at"):
        load_motion(tmp_path / "gone")
    with pytest.raises(InputError, match=r"give a folder of JSON files .* or an .npz"):
        load_motion(tmp_path / "shape_param.json")
