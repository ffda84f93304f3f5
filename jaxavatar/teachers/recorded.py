"""Recordings as a teacher: a folder of clips with sound, real ones or those of another model.

    recordings = load_recordings("clips/", side=256)
    clips = known_clips(recordings, hear, count=16, stride=8)

A recording has no network. Its clips serve in two ways:

- as supervision: `frames[k]` are the target of the image and keypoint losses for a driver that
  hears `audio[k]`;
- as a `VideoTeacher`: they are the parameters of `analytic.AnalyticTeacher`, whose `encode` is
  z = 2 I - 1 and whose `predict` is the exact denoiser of the distribution that consists of these
  clips, each with a Gaussian around it and weighted by how well its sound fits. That is eq. 8 with
  the recordings in the place of a network that was trained on them.
"""

import dataclasses
import os
import pathlib
import subprocess
from collections.abc import Callable, Sequence

import imageio_ffmpeg
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageOps

from jaxavatar.errors import InputError
from jaxavatar.speech import sound
from jaxavatar.structs import FPS, SAMPLES_PER_FRAME
from jaxavatar.teachers.analytic import KnownClips

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

Hear = Callable[[Float[np.ndarray, " S"]], Float[np.ndarray | Array, "T d_a"]]
"""16 kHz samples to speech features, one row per 640 samples."""

_APART = 0.5  # seconds by which picture and sound may differ in length; the longer one is cut


@dataclasses.dataclass(frozen=True)
class Recording:
    """One talking person.

    Attributes:
        name: of the file or folder.
        frames: at 25 fps.
        samples: 16 kHz mono at `speech.sound.SPEECH_LEVEL`, 640 per frame.
    """

    name: str
    frames: UInt8[np.ndarray, "T H W 3"]
    samples: Float[np.ndarray, " S"]


def load_recordings(folder: str | os.PathLike[str], side: int) -> tuple[Recording, ...]:
    """Read all recordings of a folder, in the order of their names.

    A recording is a video file with sound, of any frame rate, or a folder that holds one sound file
    (WAV) and the frames as pictures, 25 per second in the order of their names. Frames are cut to
    the square in their middle and resized.

    Args:
        folder: holds the recordings; other files in it are left alone.
        side: of the frames that the losses or the teacher see, pixels.

    Raises:
        InputError: there are none, or one is damaged, silent, or differs by more than half a second
            in the lengths of picture and sound.
    """
    place = pathlib.Path(folder)
    if not place.is_dir():
        raise InputError(f"no folder of clips at {place}; check the path")
    recordings = []
    for path in sorted(place.iterdir()):
        if path.is_dir():
            recordings.append(_matched(path, _read_pictures(path, side), sound.load(_wav(path))))
        elif path.suffix.lower() in VIDEOS:
            recordings.append(_matched(path, _read_video(path, side), sound.load(path)))
    if not recordings:
        raise InputError(
            f"{place} holds no clips; put videos with sound there, or folders of frames and a WAV"
        )
    return tuple(recordings)


def known_clips(recordings: Sequence[Recording], hear: Hear, count: int, stride: int) -> KnownClips:
    """Cut recordings into clips of equal length, with their sound.

    Speech is heard in whole recordings, so that each clip's features know what comes before it.

    Args:
        recordings: of one person, or of all whom the clips shall teach.
        hear: for example `speech.speech_features` with an encoder.
        count: T, frames of a clip.
        stride: frames from the start of one to that of the next.

    Returns:
        K clips, in [0, 1].

    Raises:
        InputError: no recording has `count` frames.
    """
    frames, audio = [], []
    for recording in recordings:
        heard = np.asarray(hear(recording.samples))
        for begin in range(0, len(recording.frames) - count + 1, stride):
            frames.append(recording.frames[begin : begin + count])
            audio.append(heard[begin : begin + count])
    if not frames:
        longest = max((len(recording.frames) for recording in recordings), default=0)
        raise InputError(
            f"the longest recording has {longest} frames; clips of {count} need a longer one"
        )
    pixels = jnp.asarray(np.stack(frames), jnp.float32) / 255
    return KnownClips(pixels, jnp.asarray(np.stack(audio), jnp.float32))


def _matched(
    path: pathlib.Path, frames: UInt8[np.ndarray, "T H W 3"], samples: Float[np.ndarray, " S"]
) -> Recording:
    """Cut picture and sound to the same whole number of frames."""
    heard = len(samples) // SAMPLES_PER_FRAME
    if abs(heard - len(frames)) > _APART * FPS:
        raise InputError(
            f"{path} has {len(frames) / FPS:.2f} s of picture and {heard / FPS:.2f} s of sound; cut"
            " them to the same length"
        )
    count = min(heard, len(frames))
    return Recording(path.name, frames[:count], samples[: count * SAMPLES_PER_FRAME])


def _read_video(path: pathlib.Path, side: int) -> UInt8[np.ndarray, "T H W 3"]:
    # start_time: a picture that begins after the sound is held from the beginning.
    filters = (
        f"fps={FPS}:start_time=0,scale={side}:{side}:force_original_aspect_ratio=increase"
        f":flags=area+accurate_rnd+full_chroma_int,crop={side}:{side}"
    )
    # The prefix keeps a name with a colon from being taken for a protocol.
    source = ["-nostdin", "-v", "error", "-i", f"file:{path}", "-map", "0:v:0"]
    target = ["-vf", filters, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), *source, *target], capture_output=True, check=False
    )
    if done.returncode or not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(
            f"{path} holds no picture that ffmpeg can read"
            f" ({lines[-1] if lines else 'no frames'}); give an MP4 file"
        )
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, side, side, 3)


def _read_pictures(folder: pathlib.Path, side: int) -> UInt8[np.ndarray, "T H W 3"]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not paths:
        raise InputError(f"{folder} holds no frames; put PNG or JPEG pictures there, 25 per second")
    return np.stack([_read_picture(path, side) for path in paths])


def _read_picture(path: pathlib.Path, side: int) -> UInt8[np.ndarray, "H W 3"]:
    try:
        with Image.open(path) as picture:
            square = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BOX)
            return np.asarray(square)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"the frame {path} cannot be read; save it again as PNG") from error


def _wav(folder: pathlib.Path) -> pathlib.Path:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".wav")
    if len(found) != 1:
        raise InputError(f"{folder} holds {len(found)} WAV files; put exactly one there")
    return found[0]
