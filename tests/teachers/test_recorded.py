import numpy as np
import pytest
from PIL import Image

from jaxavatar.errors import InputError
from jaxavatar.export.video import VideoWriter
from jaxavatar.speech import save_wav
from jaxavatar.structs import SAMPLES_PER_FRAME
from jaxavatar.teachers.recorded import Recording, known_clips, load_recordings

COLOURS = np.linspace(0.2, 0.8, 20)[:, None] * np.array([1.0, 0.7, 0.4])


def tone(frames: int) -> np.ndarray:
    return 0.3 * np.sin(np.arange(frames * SAMPLES_PER_FRAME) * 0.2).astype(np.float32)


def write_video(path, sound_frames: int = 20) -> None:
    """Uniform frames of changing colour with white bars at either side."""
    with VideoWriter(path, tone(sound_frames)) as video:
        for colour in COLOURS:
            frame = np.ones((32, 64, 3))
            frame[:, 16:48] = colour
            video.add(frame)


def test_videos_and_frames_in_order(tmp_path):
    write_video(tmp_path / "b: talk.mp4")
    (tmp_path / "notes.txt").write_text("left alone")
    folder = tmp_path / "a"
    folder.mkdir()
    pixels = np.round(COLOURS * 255).astype(np.uint8)
    for t, colour in enumerate(pixels):
        Image.fromarray(np.broadcast_to(colour, (24, 16, 3)).copy()).save(folder / f"{t:03}.png")
    save_wav(folder / "speech.wav", tone(18))
    frames, video = load_recordings(tmp_path, side=16)
    assert (frames.name, video.name) == ("a", "b: talk.mp4")
    assert frames.frames.shape == (18, 16, 16, 3)  # cut to the sound
    np.testing.assert_array_equal(frames.frames[:, 5, 5], pixels[:18])
    assert video.frames.shape == (20, 16, 16, 3)
    # Inside the bars; compression and yuv420p cost a few levels.
    inside = video.frames[:, 4:12, 4:12].astype(float).mean((1, 2))
    np.testing.assert_allclose(inside, COLOURS * 255, atol=4)
    for recording in (frames, video):
        assert len(recording.samples) == SAMPLES_PER_FRAME * len(recording.frames)


def test_clips_with_their_sound():
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    recording = Recording("a", frames, np.repeat(np.arange(10.0), SAMPLES_PER_FRAME))

    def hear(samples):
        return samples.reshape(-1, SAMPLES_PER_FRAME)[:, :1]

    clips = known_clips([recording, recording], hear, count=4, stride=3)
    assert clips.frames.shape == (6, 4, 2, 2, 3)
    begins = np.array([0, 3, 6, 0, 3, 6])[:, None] + np.arange(4)
    np.testing.assert_array_equal(clips.audio[..., 0], begins)
    np.testing.assert_allclose(clips.frames[..., 0, 0, 0] * 255, begins, rtol=1e-6)
    with pytest.raises(InputError, match="the longest recording has 10 frames; clips of 11"):
        known_clips([recording], hear, count=11, stride=1)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(InputError, match=r"no folder of clips at .*missing"):
        load_recordings(tmp_path / "missing", 16)
    with pytest.raises(InputError, match="holds no clips; put videos"):
        load_recordings(tmp_path, 16)
    write_video(tmp_path / "long.mp4")
    folder = tmp_path / "a"
    folder.mkdir()
    with pytest.raises(InputError, match=r"a holds no frames; put PNG"):
        load_recordings(tmp_path, 16)
    (folder / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"the frame .*1\.png cannot be read"):
        load_recordings(tmp_path, 16)
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    with pytest.raises(InputError, match="a holds 0 WAV files; put exactly one"):
        load_recordings(tmp_path, 16)
    save_wav(folder / "1.wav", tone(40))
    with pytest.raises(InputError, match=r"a has 0\.04 s of picture and 1\.60 s of sound"):
        load_recordings(tmp_path, 16)
    (folder / "1.wav").unlink()
    (tmp_path / "a" / "1.png").unlink()
    folder.rmdir()
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"bad\.mp4 holds no picture that ffmpeg can read"):
        load_recordings(tmp_path, 16)
