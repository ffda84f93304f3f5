"""Read videos of any size and rate frame by frame, in constant memory."""

import os
import pathlib
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from jaxavatar.errors import InputError
from jaxavatar.structs import FPS

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


def video_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width of a video as it is shown, upright.

    Raises:
        InputError: the file is missing or holds no picture.
    """
    return next(read_frames(path)).shape[:2]


def read_frames(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield the frames at 25 per second, upright.

    Frames of other rates are repeated or dropped, so that frame t is what shows at t/25 s.

    Args:
        path: of the video.
        size: height and width to scale to (by areas when it shrinks); None leaves it.

    Raises:
        InputError: the file is missing, or ffmpeg cannot decode it to its end.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise InputError(f"there is no video at {file}; check the path")
    filters = f"fps={FPS}:start_time=0"
    if size is not None:
        filters += f",scale={size[1]}:{size[0]}:flags=area+accurate_rnd+full_chroma_int"
    # The prefix keeps a name with a colon from being taken for a protocol.
    source = ["-nostdin", "-v", "error", "-i", f"file:{file}", "-map", "0:v:0"]
    target = ["-vf", filters, "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [imageio_ffmpeg.get_ffmpeg_exe(), *source, *target], stdout=subprocess.PIPE, stderr=log
        )
        assert process.stdout is not None
        try:
            count = 0
            while (frame := _picture(process.stdout)) is not None:
                count += 1
                yield frame
            if process.wait() or not count:
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                raise InputError(
                    f"{file} holds no picture that ffmpeg can read to its end"
                    f" ({lines[-1] if lines else 'no frames'}); give a complete MP4 file"
                )
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _picture(stream: IO[bytes]) -> UInt8[np.ndarray, "H W 3"] | None:
    """Read one picture in the format PPM, whose header states the size."""
    if stream.readline() != b"P6\n":
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()  # the largest value, 255
    data = stream.read(height * width * 3)
    if len(data) < height * width * 3:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def pair_videos(
    predicted: str | os.PathLike[str], true: str | os.PathLike[str]
) -> list[tuple[str, pathlib.Path, pathlib.Path]]:
    """Pair two files, or the videos of two folders by the stems of their names.

    Returns:
        Name, predicted and true file of each pair, in the order of names. Videos of `true`
        without a prediction are left out.

    Raises:
        InputError: a place is missing, one is a file and the other a folder, or a prediction has
            no truth.
    """
    ours, theirs = pathlib.Path(predicted), pathlib.Path(true)
    for place in (ours, theirs):
        if not place.exists():
            raise InputError(f"there is no video or folder at {place}; check the path")
    if ours.is_dir() != theirs.is_dir():
        raise InputError(f"{ours} and {theirs} must be two videos or two folders of videos")
    if ours.is_file():
        return [(ours.stem, ours, theirs)]
    found, known = _videos(ours), _videos(theirs)
    if not found:
        raise InputError(f"{ours} holds no videos; name a folder with MP4 files")
    if lonely := sorted(set(found) - set(known)):
        raise InputError(
            f"{theirs} lacks a video for {', '.join(lonely)}; pairs have the same name before the"
            " suffix"
        )
    return [(stem, found[stem], known[stem]) for stem in sorted(found)]


def _videos(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    videos: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in videos:
            raise InputError(f"{folder} holds two videos named {path.stem}; remove one")
        videos[path.stem] = path
    return videos
