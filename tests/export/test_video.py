import errno
import os
import re
import subprocess
import tempfile
import wave

import imageio_ffmpeg
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxavatar.errors import InputError
from jaxavatar.export.sequence import SequenceWriter
from jaxavatar.export.video import VideoWriter
from jaxavatar.structs import FPS

RATE = 16_000


def decode(path, *options: str) -> tuple[bytes, str]:
    """Return the decoded stream and what ffmpeg says about the file."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    done = subprocess.run([program, "-i", path, *options, "-"], capture_output=True, check=True)
    return done.stdout, done.stderr.decode().split("Output #0")[0]


def pictures(path) -> tuple[np.ndarray, str]:
    flags = "scale=flags=accurate_rnd+full_chroma_int"
    data, about = decode(path, "-vf", flags, "-f", "rawvideo", "-pix_fmt", "rgb24")
    size = re.search(r"Video: .*?, (\d+)x(\d+)", about)
    assert size
    return np.frombuffer(data, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3), about


def sound(path, rate: int = RATE) -> np.ndarray:
    return np.frombuffer(decode(path, "-f", "f32le", "-ac", "1", "-ar", str(rate))[0], "<f4")


def moving(count: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A smooth coloured gradient that drifts, [0, 1]."""
    v, u = np.mgrid[0:height, 0:width] / width
    return np.stack(
        [
            np.stack([0.5 + 0.4 * np.sin(3 * u + t / 9), v, 0.3 + 0.3 * np.cos(u * 4)], -1)
            for t in range(count)
        ]
    )


def write(path, frames, audio=None, rate: int = RATE) -> None:
    with VideoWriter(path, audio, rate) as video:
        for frame in frames:
            video.add(frame)
    assert video.frames == len(frames)


def test_frames_come_back(tmp_path):
    path = tmp_path / "v.mp4"
    frames = moving(30)
    write(path, frames)
    back, about = pictures(path)
    assert back.shape == (30, 96, 128, 3)
    assert "Duration: 00:00:01.20" in about and f"{FPS} fps" in about
    assert "Video: h264" in about and "yuv420p(tv, bt709, progressive)" in about
    # Every frame is nearer to its own original than to its neighbours'; no colour cast.
    error = np.abs(back[:, None] / 255 - frames[None]).mean((2, 3, 4))
    assert (error.argmin(1) == np.arange(30)).all()
    assert np.diagonal(error).max() < 0.01
    assert np.abs((back / 255 - frames).mean((0, 1, 2))).max() < 0.004
    assert list(tmp_path.iterdir()) == [path]
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # players may start at once


def test_bytes_floats_and_device_arrays_agree(tmp_path):
    frames = np.round(moving(3, 32, 32) * 255).astype(np.uint8)
    for name, kind in {
        "u8.mp4": frames,
        "f64.mp4": frames / 255,
        "jax.mp4": jnp.asarray(frames / 255, jnp.float32),
    }.items():
        write(tmp_path / name, kind)
    first = (tmp_path / "u8.mp4").read_bytes()
    assert (tmp_path / "f64.mp4").read_bytes() == first
    assert (tmp_path / "jax.mp4").read_bytes() == first


@pytest.mark.parametrize(("height", "width"), [(33, 32), (32, 35), (1, 1)])
def test_odd_sizes(tmp_path, height, width):
    frames = moving(3, height, width)
    write(tmp_path / "v.mp4", frames)
    back, _ = pictures(tmp_path / "v.mp4")
    assert back.shape == (3, height + height % 2, width + width % 2, 3)
    assert np.abs(back[:, :height, :width] / 255 - frames).mean() < 0.02


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sound_is_in_step_with_the_picture(tmp_path, rate):
    """A flash and a click at the same moment stay within one frame of each other."""
    count, at = 60, 37
    frames = np.zeros((count, 64, 64, 3), np.uint8)
    frames[at] = 255
    audio = np.zeros(count * rate // FPS)
    start = at * rate // FPS
    audio[start : start + rate // 500] = 0.9 * np.sin(np.arange(rate // 500))
    write(tmp_path / "v.mp4", frames, audio, rate)
    back, about = pictures(tmp_path / "v.mp4")
    assert "Audio: aac" in about and "48000 Hz" in about
    heard = sound(tmp_path / "v.mp4", rate)
    assert back.mean((1, 2, 3)).argmax() == at
    assert abs(np.abs(heard).argmax() - start) / rate < 0.25 / FPS
    assert np.abs(heard).max() > 0.5


@pytest.mark.parametrize("seconds", [0.1, 1.0, 3.0])
def test_sound_lasts_as_long_as_the_picture(tmp_path, seconds):
    audio = 0.5 * np.sin(np.arange(int(seconds * RATE)) * 0.2)
    write(tmp_path / "v.mp4", moving(25, 32, 32), audio)
    back, about = pictures(tmp_path / "v.mp4")
    heard = sound(tmp_path / "v.mp4")
    assert len(back) == 25 and "Duration: 00:00:01.0" in about
    assert abs(len(heard) - RATE) < 1024  # one frame of AAC at the end
    power = [float(np.square(part).mean()) for part in np.split(heard[:RATE], 10)]
    assert min(power[: int(min(seconds, 1) * 10)]) > 0.05
    if seconds < 0.5:
        assert max(power[2:]) < 1e-4


def test_failure_inside_the_block_leaves_nothing(tmp_path):
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error), VideoWriter(tmp_path / "v.mp4", np.zeros(RATE)) as video:
            video.add(moving(1)[0])
            raise error
        assert list(tmp_path.iterdir()) == []
        assert video._encoder is not None and video._encoder._process.poll() is not None


def test_old_file_survives_a_failure(tmp_path):
    (tmp_path / "v.mp4").write_text("old")
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(tmp_path / "v.mp4"):
        pass
    assert (tmp_path / "v.mp4").read_text() == "old"


def test_size_may_not_change(tmp_path):
    with pytest.raises(ValueError, match="frame 1"), VideoWriter(tmp_path / "v.mp4") as video:
        video.add(np.zeros((8, 8, 3), np.uint8))
        video.add(np.zeros((8, 10, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", ["cat >/dev/null", ":"], ids=["at the end", "at once"])
def test_ffmpegs_own_words_reach_the_user(tmp_path, monkeypatch, first):
    """A full disk while encoding is told in ffmpeg's words."""
    program = tmp_path / "ffmpeg"
    said = "echo first >&2\necho '[out#0/mp4 @ 0x5] No space left' >&2"
    program.write_text(f"#!/bin/sh\n{first}\n{said}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    out = tmp_path / "out"
    with (
        pytest.raises(InputError, match=r"v\.mp4: ffmpeg: No space left; free"),
        VideoWriter(out / "v.mp4") as video,
    ):
        for _ in range(50):
            video.add(np.zeros((256, 256, 3), np.uint8))
    assert list(out.iterdir()) == []


def test_no_ffmpeg(tmp_path, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(InputError, match="imageio-ffmpeg"), VideoWriter(tmp_path / "v.mp4") as v:
        v.add(np.zeros((8, 8, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_unwritable_and_full(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out"), VideoWriter(tmp_path / "file" / "v.mp4"):
        pass

    def full(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", lambda *_, **__: full())
    with pytest.raises(InputError, match="No space left"), VideoWriter(tmp_path / "v.mp4"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_webm_keeps_opacity(tmp_path):
    """Colours and opacity come back, whatever lies under; sound and length as in MP4."""
    path = tmp_path / "v.webm"
    frames = moving(20)
    disc = np.hypot(*np.mgrid[-48:48, -64:64]) / 40
    alpha = np.clip(2 - 1.5 * disc, 0, 1)[None, ..., None] * np.ones((20, 1, 1, 1))
    write(path, np.concatenate([frames, alpha], -1), np.sin(np.arange(RATE) / 9))
    _, about = decode(path, "-f", "rawvideo")
    assert "Video: vp9" in about and "Audio: opus" in about and "ALPHA_MODE" in about
    assert "Duration: 00:00:00.8" in about
    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-c:v", "libvpx-vp9", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgba", "-"]
    back = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
    back = back.reshape(20, 96, 128, 4) / 255
    assert np.abs(back[..., 3:] - alpha).mean() < 0.01
    seen = alpha[..., 0] > 0.5
    assert np.abs(back[..., :3] - frames)[seen].mean() < 0.02
    assert len(sound(path)) == pytest.approx(0.8 * RATE, abs=0.03 * RATE)


def test_mp4_has_no_opacity(tmp_path):
    with pytest.raises(ValueError, match="has no opacity"):
        write(tmp_path / "v.mp4", np.ones((1, 8, 8, 4)))
    assert list(tmp_path.iterdir()) == []


def test_folder_of_pictures(tmp_path):
    frames = np.round(moving(3, 16, 16) * 255).astype(np.uint8)
    opaque = np.concatenate([frames, np.full((3, 16, 16, 1), 128, np.uint8)], -1)
    with SequenceWriter(tmp_path / "new" / "frames", np.zeros(RATE)) as pictures:
        for frame in opaque:
            pictures.add(frame)
    folder = tmp_path / "new" / "frames"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "sound.wav"]
    for name, frame in zip(names, opaque, strict=False):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / name)), frame)
    with wave.open(str(folder / "sound.wav")) as file:
        assert (file.getnframes(), file.getframerate()) == (3 * RATE // FPS, RATE)

    with pytest.raises(InputError, match="holds something"), SequenceWriter(folder):
        pass
    with pytest.raises(KeyboardInterrupt), SequenceWriter(tmp_path / "cut") as pictures:
        pictures.add(frames[0])
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
