"""The command line with stand-ins for the slow parts: what it calls, writes, says and returns."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

import jaxavatar.drive
import jaxavatar.perception
import jaxavatar.preview
import jaxavatar.reconstruction.regress
import jaxavatar.stream
from jaxavatar import avatar_file, cli, weights
from jaxavatar.animate import deform, pose_avatar
from jaxavatar.deformer import Driver, DriverConfig, initial_state, save_params, whole
from jaxavatar.errors import InputError
from jaxavatar.export.video import VideoWriter
from jaxavatar.motion import load_motion
from jaxavatar.speech import sound, voice
from jaxavatar.structs import Findings, Frames, PoseLandmarks


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("JAXAVATAR_CACHE", str(folder))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "off")  # leaves this process's JAX alone
    return folder


@pytest.fixture
def photo(tmp_path) -> pathlib.Path:
    path = tmp_path / "käthe kollwitz.png"
    Image.new("RGB", (300, 400), (200, 150, 120)).save(path)
    return path


@pytest.fixture
def speech(tmp_path) -> pathlib.Path:
    path = tmp_path / "speech.wav"
    sound.save_wav(path, 0.3 * np.sin(0.1 * np.arange(16_000)))
    return path


@pytest.fixture
def saved(tmp_path, toys) -> pathlib.Path:
    path = tmp_path / "p.avatar"
    avatar_file.save_avatar(path, toys.avatar(), {})
    return path


@pytest.fixture
def calls(monkeypatch, toys, tmp_path) -> dict:
    """Replace perception, reconstruction, Whisper and the renderer; record their arguments."""
    seen = {}

    def perceive(image):
        seen["image"] = image
        pose = PoseLandmarks(np.zeros((33, 2)), np.zeros(33), np.zeros(33), 1.0)
        matte = np.ones(image.shape[:2])
        return Findings(pose, None, None, None, matte, ("the left hand is hidden",))

    def create_avatar(image, findings, *, method, regressor, steps, seed, progress):
        seen["create"] = {"method": method, "steps": steps, "seed": seed}
        steps = steps or 3
        for step in range(1, steps + 1):
            progress(step, steps, {"loss": 1 / step})
        report = {"psnr": np.float32(30), "steps": steps}
        return types.SimpleNamespace(avatar=toys.avatar(), report=report)

    def make_drive(samples, text=None):
        seen["drive"] = (len(samples), text)
        return toys.drive(frames=30)

    def stream(driver, params, avatar, drive, camera, background):
        seen["camera"], seen["background"] = camera, np.asarray(background)
        shape = (10, camera.height, camera.width)
        for _ in range(3):
            yield Frames(jnp.broadcast_to(background, (*shape, 3)), jnp.zeros(shape))

    def load_regressor(path):
        seen["weights"] = path
        licences = ("CC-BY-NC-4.0",) if path.name == "lhm.safetensors" else ()
        return types.SimpleNamespace(licences=licences)

    monkeypatch.setattr(jaxavatar.reconstruction.regress, "load_regressor", load_regressor)
    module = types.ModuleType("jaxavatar.reconstruction.create")
    module.__dict__["create_avatar"] = create_avatar
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(jaxavatar.perception, "perceive", perceive, raising=False)
    monkeypatch.setattr(jaxavatar.drive, "make_drive", make_drive)
    monkeypatch.setattr(jaxavatar.stream, "stream", stream)
    monkeypatch.setattr(jaxavatar.preview, "preview", lambda avatar, image: {"Photo": image})
    driver = tmp_path / "driver.npz"
    save_params(driver, {"params": {"x": np.zeros(2)}}, DriverConfig())
    monkeypatch.setattr("jaxavatar.deformer.weights_file.PACKAGED", driver)
    return seen


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def fails(capsys, *arguments) -> str:
    """Run a command that must fail; return its one line."""
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("jaxavatar: ") and "Traceback" not in captured.err
    assert captured.out == ""
    return line


def files(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_create(tmp_path, photo, calls, capsys):
    out = tmp_path / "new" / "folder"
    assert run("create", photo, "--out", out, "--steps", 7, "--seed", 3) == 0
    target = out / "käthe kollwitz.avatar"
    captured = capsys.readouterr()
    assert captured.out == f"{target}\n"
    assert "the left hand is hidden" in captured.err and "7/7" in captured.err
    assert calls["create"] == {"method": "regress+finetune", "steps": 7, "seed": 3}
    assert calls["weights"] == jaxavatar.reconstruction.regress.PACKAGED
    assert calls["image"].shape == (400, 300, 3)
    avatar, info = avatar_file.load_avatar(target)
    assert avatar.n_face == 60
    assert info["photo"] == photo.name and info["report"] == {"psnr": 30.0, "steps": 7}
    assert info["messages"] == ["the left hand is hidden"]
    assert files(out) == {target.name, "preview.png", "report.json"}


def test_animate(tmp_path, saved, speech, calls, capsys):
    out = tmp_path / "v.mp4"
    command = ["animate", saved, "--speech", speech, "--out", out, "--background", "#ff0000"]
    assert run(*command, "--size", 64) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes()[4:8] == b"ftyp"
    assert calls["drive"] == (16_000, None)
    assert calls["camera"].viewmat.shape == (4, 4) and calls["camera"].height == 64
    np.testing.assert_array_equal(calls["background"], [1, 0, 0])


def test_animate_without_background(tmp_path, saved, speech, calls, monkeypatch, capsys):
    """A folder of pictures or a WebM with opacity; an MP4 has none."""

    def stream(driver, params, avatar, drive, camera, background):
        calls["background"] = np.asarray(background)
        alpha = jnp.full((2, camera.height, camera.width), 0.5)
        yield Frames(0.5 * alpha[..., None] * jnp.ones(3), alpha)  # half grey, before black

    monkeypatch.setattr(jaxavatar.stream, "stream", stream)
    command = ["animate", saved, "--speech", speech, "--background", "none", "--size", 16]
    out = tmp_path / "new" / "frames"
    assert run(*command, "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    np.testing.assert_array_equal(calls["background"], 0)
    assert files(out) == {"00000.png", "00001.png", "sound.wav"}
    pixels = np.asarray(Image.open(out / "00001.png"))
    assert pixels.shape[2] == 4 and set(pixels.reshape(-1)) == {128}
    assert run(*command, "--out", tmp_path / "v.webm") == 0
    assert b"webm" in (tmp_path / "v.webm").read_bytes()[:64]
    capsys.readouterr()
    assert "holds something" in fails(capsys, *command, "--out", out)
    assert ".webm" in fails(capsys, *command, "--out", tmp_path / "v.mp4")
    assert not (tmp_path / "v.mp4").exists()


def test_animate_options(tmp_path, saved, photo, calls, monkeypatch):
    def speak(text, name):
        calls["voice"] = (text, name)
        return np.zeros(8000), None

    monkeypatch.setattr(voice, "speak", speak)
    command = ["animate", saved, "--text", "Hello", "--out", tmp_path / "v.mp4", "--size", 64]
    assert run(*command, "--voice", "rms", "--camera", "orbit", "--background", photo) == 0
    assert calls["voice"] == ("Hello", "rms") and calls["drive"] == (8000, "Hello")
    assert calls["camera"].viewmat.shape == (30, 4, 4)
    assert calls["background"].shape == (64, 64, 3)
    np.testing.assert_allclose(calls["background"][0, 0] * 255, [200, 150, 120], atol=0.01)
    assert run(*command) == 0
    assert calls["voice"] == ("Hello", "slt")
    np.testing.assert_array_equal(calls["background"], 1)


def test_talk(tmp_path, photo, speech, calls, capsys):
    assert run("talk", photo, "--speech", speech, "--out", tmp_path / "d", "--steps", 2) == 0
    assert files(tmp_path / "d") == {
        "video.mp4",
        "käthe kollwitz.avatar",
        "preview.png",
        "report.json",
    }
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "d" / "video.mp4")
    assert run("talk", photo, "--speech", speech, "--out", tmp_path / "e" / "v.MP4") == 0
    assert files(tmp_path / "e") == {"v.MP4", "käthe kollwitz.avatar", "preview.png", "report.json"}


def test_orbit_with_the_real_renderer(tmp_path, saved, speech, monkeypatch, toys):
    config = DriverConfig(width=16, heads=2, head_width=8, face_code=4, octaves=2)
    drive = toys.drive(frames=30)
    params = jax.jit(Driver(config).init)(
        jax.random.key(0), toys.avatar(), whole(drive, config.halo), initial_state(config)
    )
    save_params(tmp_path / "driver.npz", params, config)
    monkeypatch.setattr(jaxavatar.drive, "make_drive", lambda samples, text: drive)

    def video(camera):
        out = tmp_path / f"{camera}.mp4"
        command = ["animate", saved, "--speech", speech, "--out", out, "--size", 32]
        assert run(*command, "--driver", tmp_path / "driver.npz", "--camera", camera) == 0
        decode = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", out, "-f", "rawvideo", "-pix_fmt", "gray"]
        done = subprocess.run([*decode, "-"], capture_output=True, check=True)
        return np.frombuffer(done.stdout, np.uint8).reshape(30, 32, 32).astype(float)

    aside = np.abs(video("orbit") - video("front")).mean((1, 2))
    # The same at first, but for the codec; at the end the camera has turned by 20 degrees.
    assert aside[0] < 1 and aside[-1] > 3 and aside[-1] > aside[15] > aside[0], aside


def test_frames_are_written_as_they_come(tmp_path, saved, speech, calls, monkeypatch):
    """No list of the frames is kept: when a chunk is asked for, those before are in the file."""
    written = []
    add = VideoWriter.add

    def counted(self, frame):
        add(self, frame)
        written.append(self.frames)

    def stream(driver, params, avatar, drive, camera, background):
        for chunk in range(3):
            assert written == list(range(1, 10 * chunk + 1))
            yield Frames(jnp.zeros((10, 64, 64, 3)), jnp.zeros((10, 64, 64)))

    monkeypatch.setattr(VideoWriter, "add", counted)
    monkeypatch.setattr(jaxavatar.stream, "stream", stream)
    out = tmp_path / "v.mp4"
    assert run("animate", saved, "--speech", speech, "--out", out, "--size", 64) == 0
    assert len(written) == 30


@pytest.mark.parametrize("side", [32, 300], ids=["enlarged", "shrunk"])
@pytest.mark.parametrize("tall", [False, True])
def test_background_of_another_shape(tmp_path, saved, speech, calls, side, tall):
    """Of 4 x 2 tiles, a square frame shows the 2 x 2 in the middle, undistorted."""
    values = np.array([[10, 60, 120, 180], [30, 90, 150, 250]], np.uint8)
    tiles = np.repeat(np.repeat(values, 2 * side, 0), 2 * side, 1)
    path = tmp_path / "tiles.png"
    Image.fromarray(tiles.T if tall else tiles).convert("RGB").save(path)
    command = ["animate", saved, "--speech", speech, "--out", tmp_path / "v.mp4", "--size", 160]
    assert run(*command, "--background", path) == 0
    shown = calls["background"][..., 0] * 255
    assert shown.shape == (160, 160) == (calls["camera"].height, calls["camera"].width)
    expected = np.repeat(np.repeat(values[:, 1:3], 80, 0), 80, 1)
    expected = expected.T if tall else expected
    # Away from the edge between two tiles, where the interpolation mixes them.
    inside = (np.abs(np.arange(160) - 79.5) > 6) & (np.abs(np.arange(160) - 79.5) < 74)
    np.testing.assert_allclose(shown[inside][:, inside], expected[inside][:, inside], atol=2)


def test_create_by_another_method(tmp_path, photo, calls, capsys):
    out = tmp_path / "d"
    assert run("create", photo, "--out", out, "--method", "optimise") == 0
    assert calls["create"] == {"method": "optimise", "steps": None, "seed": 0}
    assert "weights" not in calls
    other = tmp_path / "lhm.safetensors"
    assert run("create", photo, "--out", out, "--method", "regress", "--weights", other) == 0
    assert calls["weights"] == other
    assert "CC-BY-NC-4.0" in capsys.readouterr().err
    _, info = avatar_file.load_avatar(out / f"{photo.stem}.avatar")
    assert info["method"] == "regress" and info["licences"] == ["CC-BY-NC-4.0"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--method", "regress", "--steps", 3), "takes no steps"),
        (("--method", "optimise", "--weights", "x"), "uses no transformer"),
    ],
)
def test_methods_have_their_options(tmp_path, photo, calls, capsys, options, word):
    assert word in fails(capsys, "create", photo, "--out", tmp_path / "d", *options)
    assert not list((tmp_path / "d").iterdir())


@pytest.mark.parametrize("command", ["create", "talk"])
def test_mistakes_show_before_the_long_work(tmp_path, photo, speech, calls, capsys, command):
    (tmp_path / "file").touch()
    (tmp_path / "small.png").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    spoken = [] if command == "create" else ["--speech", speech]
    good = [command, photo, *spoken, "--out", tmp_path / "out"]

    def changed(old, new):
        return [new if item == old else item for item in good]

    assert "file" in fails(capsys, *changed(tmp_path / "out", tmp_path / "file" / "x"))
    assert "missing.jpg" in fails(capsys, *changed(photo, tmp_path / "missing.jpg"))
    assert "empty" in fails(capsys, *changed(photo, tmp_path / "small.png"))
    if command == "talk":
        assert "folder" in fails(capsys, *changed(tmp_path / "out", tmp_path / "folder.mp4"))
        assert "gone.wav" in fails(capsys, *changed(speech, tmp_path / "gone.wav"))
        assert "--voice" in fails(capsys, *good, "--voice", "slt")
        assert "neither a colour" in fails(capsys, *good, "--background", "reddish")
        assert "gone.npz" in fails(capsys, *good, "--driver", tmp_path / "gone.npz")
    calls.pop("weights", None)  # reading them is quick
    assert calls == {}


def test_wrong_avatar_and_video_names(tmp_path, photo, speech, saved, calls, capsys):
    out = tmp_path / "v.mp4"
    assert "not an avatar" in fails(capsys, "animate", photo, "--speech", speech, "--out", out)
    wrong = tmp_path / "v.avi"
    assert ".mp4" in fails(capsys, "animate", saved, "--speech", speech, "--out", wrong)
    assert not out.exists() and not wrong.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["create", "p.jpg"], "--out"),
        (["create", "p.jpg", "--out", "d", "--steps", "0"], "not above zero"),
        (["animate", "a", "--out", "v.mp4"], "--speech"),
        (["animate", "a", "--out", "v.mp4", "--speech", "s", "--text", "t"], "not allowed"),
    ],
)
def test_wrong_usage(capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_failure_in_the_middle_leaves_nothing(tmp_path, photo, speech, calls, capsys, monkeypatch):
    def stops(error):
        def stream(*_):
            yield Frames(jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 8, 8)))
            raise error

        return stream

    command = ["talk", photo, "--speech", speech, "--out", tmp_path / "d" / "v.mp4", "--steps", 1]
    monkeypatch.setattr(jaxavatar.stream, "stream", stops(KeyboardInterrupt()))
    assert run(*command) == 130
    captured = capsys.readouterr()
    assert captured.err.strip().splitlines()[-1].startswith("jaxavatar: interrupted")
    # The avatar was complete before; of the video nothing is left.
    assert files(tmp_path / "d") == {"käthe kollwitz.avatar", "preview.png", "report.json"}
    monkeypatch.setattr(jaxavatar.stream, "stream", stops(InputError("two\nlines")))
    assert fails(capsys, *command) == "jaxavatar: two lines"


def test_bugs_are_not_hidden(photo, tmp_path, calls, monkeypatch):
    def broken(image):
        raise RuntimeError("a bug")

    monkeypatch.setattr(jaxavatar.perception, "perceive", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run("create", photo, "--out", tmp_path / "d")


def test_weights(capsys, cache, monkeypatch, tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    asset = weights.Asset(weights.OnDisk(str(data)), "MIT", right, 7)
    for name in list(weights.REGISTRY):
        monkeypatch.delitem(weights.REGISTRY, name)
    monkeypatch.setitem(weights.REGISTRY, "toy", asset)
    assert run("weights", "list") == 0
    listed = capsys.readouterr().out
    assert str(cache) in listed and "toy" in listed and "MIT" in listed and "fetched" in listed
    assert run("weights", "fetch", "toy") == 0
    assert capsys.readouterr().out == f"{data}\n"
    assert run("weights", "verify") == 0
    assert "as expected" in capsys.readouterr().out
    data.write_bytes(b"damaged")
    assert "damaged" in fails(capsys, "weights", "verify", "toy")
    assert "unknown weights" in fails(capsys, "weights", "fetch", "nothing")


def python(code: str, **environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_version_and_help_answer_without_loading_jax():
    done = python(
        "import sys; from jaxavatar.cli import main\n"
        "try: main(sys.argv[1:] or ['--help'])\n"
        "finally: print({'jax', 'numpy', 'PIL'} & set(sys.modules))"
    )
    assert done.returncode == 0 and "talk" in done.stdout
    assert done.stdout.strip().endswith("set()")
    done = python("from jaxavatar.cli import main; main(['--version'])")
    assert done.stdout == f"jaxavatar {importlib.metadata.version('jaxavatar')}\n"


def test_compiled_code_is_kept_in_the_cache_folder(tmp_path):
    code = "from jaxavatar.cli import common; common.keep_compiled_code(); import jax; "
    code += "print(jax.config.jax_compilation_cache_dir)"
    home = {"XDG_CACHE_HOME": str(tmp_path), "JAXAVATAR_CACHE": ""}
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | home
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == str(tmp_path / "jaxavatar" / "compiled")
    own = python(code, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert own.stdout.strip() == str(tmp_path / "own")


def test_ctrl_c_while_encoding(tmp_path):
    """A real SIGINT to the process: one line, status 130, no file, no ffmpeg left."""
    code = f"""
import signal, sys, time, numpy as np
from jaxavatar import cli
from jaxavatar.cli import animate
from jaxavatar.export.video import VideoWriter
def run(arguments):
    with VideoWriter({str(tmp_path / "v.mp4")!r}, np.zeros(16000)) as video:
        video.add(np.zeros((64, 64, 3), np.uint8))
        print("ready", flush=True)
        time.sleep(60)
animate.run = run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.exit(cli.main(["animate", "a", "--text", "t", "--out", "v.mp4"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - started < 20
    assert process.returncode == 130
    assert said.strip().splitlines() == ["jaxavatar: interrupted; nothing half-written is left"]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def motion(tmp_path) -> pathlib.Path:
    """Two seconds at 50 frames per second: the person walks to their left and lifts an arm."""
    poses = np.zeros((101, 55, 3))
    poses[:, 0] = [np.pi, 0, 0]
    poses[:, 16, 2] = np.linspace(-1, 1, 101)
    trans = np.linspace(0, 1, 101)[:, None] * [0.3, 0, 0] + np.array([0, 0.2, 3])
    np.savez(tmp_path / "walk.npz", poses=poses.reshape(101, -1), trans=trans, fps=50)
    return tmp_path / "walk.npz"


@pytest.fixture
def followed(calls, monkeypatch) -> dict:
    """Stand-ins for the renderer that note what is followed."""

    def frames(count, camera):
        calls["camera"], calls["count"] = camera, count
        yield Frames(jnp.zeros((count, camera.height, camera.width, 3)), jnp.zeros((count, 1, 1)))

    def stream_poses(avatar, deltas, camera, background):
        calls["deltas"] = deltas
        return frames(len(deltas.rotations), camera)

    def stream(driver, params, avatar, drive, camera, background, body=None):
        calls["body"] = body
        return frames(drive.audio.shape[0], camera)

    monkeypatch.setattr(jaxavatar.stream, "stream_poses", stream_poses)
    monkeypatch.setattr(jaxavatar.stream, "stream", stream)
    return calls


def length(path: pathlib.Path) -> tuple[float, bool]:
    """Return the seconds of a video, and whether it has sound."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    hours, minutes, seconds = said.split("Duration: ")[1].split(",")[0].split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds), "Audio:" in said


def test_animate_by_motion_alone(tmp_path, saved, motion, followed, capsys):
    out = tmp_path / "v.mp4"
    assert run("animate", saved, "--motion", motion, "--out", out, "--size", 64) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert length(out) == (pytest.approx(51 / 25, abs=0.02), False)
    shift = np.asarray(followed["deltas"].translation)
    np.testing.assert_allclose(shift[:, 0], np.linspace(0, 0.3, 51), atol=1e-6)
    assert "drive" not in followed and followed["camera"].viewmat.shape == (4, 4)
    command = ["animate", saved, "--motion", motion, "--out", out, "--size", 64]
    assert run(*command, "--camera", "orbit") == 0
    assert followed["camera"].viewmat.shape == (51, 4, 4)


def test_animate_by_motion_and_speech(tmp_path, saved, speech, motion, followed, capsys):
    """The clip lasts as long as the speech: 30 frames."""
    out = tmp_path / "v.mp4"
    command = ["animate", saved, "--motion", motion, "--speech", speech, "--out", out]
    assert run(*command, "--size", 64) == 0
    assert "is cut" in capsys.readouterr().err
    assert followed["body"].shape == (30, 22, 7) and followed["count"] == 30
    assert length(out) == (pytest.approx(30 / 25, abs=0.05), True)


def test_talk_with_motion(tmp_path, photo, speech, motion, followed):
    command = ["talk", photo, "--speech", speech, "--motion", motion, "--out", tmp_path / "d"]
    assert run(*command, "--size", 64) == 0
    assert followed["body"].shape == (30, 22, 7)


def test_cameras_of_the_motion(tmp_path, saved, motion, followed, capsys):
    folder = tmp_path / "lhm" / "smplx_params"
    folder.mkdir(parents=True)
    zeros = {"body_pose": 63, "jaw_pose": 3, "lhand_pose": 45, "rhand_pose": 45}
    for k in range(3):
        frame = {key: [0.0] * size for key, size in zeros.items()}
        frame |= {"root_pose": [3.1, 0, 0], "trans": [0, 0.1 * k, 3], "focal": [400, 400]}
        frame |= {"princpt": [100 + k, 50], "img_size_wh": [200, 100], "expr": [0.5] * 10}
        (folder / f"{k:05d}.json").write_text(json.dumps(frame))
    command = ["animate", saved, "--out", tmp_path / "v.mp4", "--size", 64, "--camera", "motion"]
    assert run(*command, "--motion", folder.parent, "--motion-fps", 25) == 0
    camera = followed["camera"]
    assert (camera.width, camera.height) == (64, 32) and camera.K.shape == (3, 3, 3)
    np.testing.assert_allclose(camera.K[:, 0, 2], 0.32 * (100 + np.arange(3)))
    assert "expressions of the motion are dropped" in capsys.readouterr().err
    assert "no cameras of its own" in fails(capsys, *command, "--motion", motion)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--motion", "gone.npz"], "there is no motion at gone.npz"),
        (["--text", "t", "--camera", "motion"], "--camera motion is for --motion"),
        (["--text", "t", "--motion-fps", "30"], "--motion-fps is for --motion"),
        (["--text", "t", "--smplx", "m.npz"], "--smplx is for --motion"),
        (["--motion", "MOTION", "--smplx", "m.npz"], "no SMPL-X model at m.npz"),
        (["--motion", "MOTION", "--voice", "slt"], "--voice is for --text"),
        (["--motion", "MOTION", "--driver", "d.npz"], "--driver is for --speech or --text"),
    ],
)
def test_motion_mistakes_show_before_the_long_work(
    tmp_path, saved, motion, followed, capsys, options, said
):
    given = [motion if option == "MOTION" else option for option in options]
    assert said in fails(capsys, "animate", saved, "--out", tmp_path / "v.mp4", *given)
    assert followed == {} and not (tmp_path / "v.mp4").exists()


def test_talk_needs_speech(capsys):
    with pytest.raises(SystemExit) as caught:
        run("talk", "p.jpg", "--out", "d", "--motion", "walk.npz")
    assert caught.value.code == 2 and "--speech --text" in capsys.readouterr().err


def test_export_motion(tmp_path, speech, monkeypatch, toys, capsys):
    """What is written is read as the driver's motion; nothing is left after a mistake."""
    config = DriverConfig(width=16, heads=2, head_width=8, face_code=4, octaves=2)
    drive = toys.drive(frames=30)
    avatar = dataclasses.replace(toys.avatar(), landmarks=jnp.arange(8))
    avatar_file.save_avatar(tmp_path / "p.avatar", avatar, {})
    params = jax.jit(Driver(config).init)(
        jax.random.key(0), avatar, whole(drive, config.halo), initial_state(config)
    )
    save_params(tmp_path / "driver.npz", params, config)
    monkeypatch.setattr(jaxavatar.drive, "make_drive", lambda samples, text: drive)
    out = tmp_path / "new" / "motion.npz"
    command = ["export-motion", tmp_path / "p.avatar", "--driver", tmp_path / "driver.npz"]
    assert run(*command, "--speech", speech, "--out", out) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n" and " mm (root mean square)" in captured.err
    clip = load_motion(out)
    assert clip.rotations.shape == (30, 55, 3) and clip.fps == 25
    chunks = jaxavatar.stream.stream_motion(Driver(config), params, avatar, drive)
    driven = np.concatenate([moved.transforms for moved in chunks])
    turned = Rotation.from_quat(driven[:, 16, [1, 2, 3, 0]])
    expected = Rotation.from_rotvec(np.asarray(avatar.rest.rotations[16])) * turned
    actual = Rotation.from_rotvec(clip.rotations[:, 16])
    # Its own children absorb their translations by turning it a little.
    assert (actual.inv() * expected).magnitude().max() < 0.02
    home = np.asarray(avatar.joints[0] + avatar.rest.translation)
    np.testing.assert_allclose(clip.translation, np.tile(home, (30, 1)), atol=0.01)
    wrong = fails(capsys, *command, "--speech", speech, "--out", tmp_path / "m.txt")
    assert ".npz" in wrong and not (tmp_path / "m.txt").exists()
    gone = fails(capsys, *command, "--speech", tmp_path / "gone.wav", "--out", tmp_path / "m.npz")
    assert "gone.wav" in gone and not (tmp_path / "m.npz").exists()


def test_export(tmp_path, speech, monkeypatch, toys, capsys):
    """Gaussians at rest and at a moment of a speech are those that would be rendered."""
    gsply = pytest.importorskip("gsply")
    pygltflib = pytest.importorskip("pygltflib")
    config = DriverConfig(width=16, heads=2, head_width=8, face_code=4, octaves=2)
    drive = toys.drive(frames=30)
    avatar = toys.avatar()
    avatar_file.save_avatar(tmp_path / "p.avatar", avatar, {})
    params = jax.jit(Driver(config).init)(
        jax.random.key(0), avatar, whole(drive, config.halo), initial_state(config)
    )
    save_params(tmp_path / "driver.npz", params, config)
    monkeypatch.setattr(jaxavatar.drive, "make_drive", lambda samples, text: drive)
    export = ["export", tmp_path / "p.avatar", "--out"]
    speaking = ["--speech", speech, "--driver", tmp_path / "driver.npz"]

    assert run(*export, tmp_path / "rest.ply") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'rest.ply'}\n"
    still = jax.tree.map(lambda part: jnp.zeros_like(part)[None], avatar.rest)
    rest = jax.jit(pose_avatar)(avatar, still)
    means = gsply.plyread(tmp_path / "rest.ply").means
    np.testing.assert_allclose(means, rest.means[0], atol=1e-5)

    assert run(*export, tmp_path / "said.ply", *speaking, "--at", 1.13) == 0
    posed, _ = deform(Driver(config), params, avatar, drive)
    said = gsply.plyread(tmp_path / "said.ply").means
    np.testing.assert_allclose(said, posed.means[28], atol=1e-5)

    for name in ("rest.spz", "rest.glb"):
        assert run(*export, tmp_path / name) == 0
        assert (tmp_path / name).stat().st_size > 100
    pelvis = np.asarray(avatar.joints[0] + avatar.rest.translation)
    turned = gsply.read_spz(tmp_path / "rest.spz").means
    np.testing.assert_allclose(turned * [1, -1, -1] + pelvis, means, atol=1e-4)

    assert run(*export, tmp_path / "mesh.glb", "--mesh", *speaking) == 0
    document = pygltflib.GLTF2().load(str(tmp_path / "mesh.glb"))
    (weights,) = (c for c in document.animations[0].channels if c.target.path == "weights")
    sampler = document.animations[0].samplers[weights.sampler]
    assert document.accessors[sampler.input].count == 30
    assert document.accessors[sampler.output].count == 30 * 52
    assert run(*export, tmp_path / "still.glb", "--mesh") == 0
    assert not pygltflib.GLTF2().load(str(tmp_path / "still.glb")).animations

    capsys.readouterr()
    assert ".glb" in fails(capsys, *export, tmp_path / "a.ply", "--mesh")
    assert "--at is for" in fails(capsys, *export, tmp_path / "a.glb", "--mesh", "--at", 1)
    late = fails(capsys, *export, tmp_path / "late.ply", *speaking, "--at", 2)
    assert "1.20 seconds" in late and not (tmp_path / "late.ply").exists()
    assert ".spz or .glb" in fails(capsys, *export, tmp_path / "a.obj")
    assert "--at is for" in fails(capsys, *export, tmp_path / "a.ply", "--at", 1)
    assert "--camera" not in fails(capsys, *export, tmp_path / "a.ply", "--motion-fps", 3)
