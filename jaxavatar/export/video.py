"""Write frames and sound as an MP4 or WebM file, through the ffmpeg that imageio-ffmpeg brings."""

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import tempfile
import types
from collections.abc import Iterator
from typing import Self

import imageio_ffmpeg
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxavatar.errors import InputError
from jaxavatar.export.picture import to_bytes
from jaxavatar.export.wav import save_wave
from jaxavatar.files import replacing
from jaxavatar.structs import FPS, SAMPLE_RATE

Frame = UInt8[np.ndarray, "H W C"] | Float[np.ndarray | Array, "H W C"]  # C is 3, or 4: opacity

AUDIO_RATE = 48_000  # of the file: every player handles it, and AAC's frames are short (21 ms)


@dataclasses.dataclass(frozen=True)
class _Format:
    """Options of ffmpeg: of the picture, of the sound, of the container."""

    picture: list[str]
    sound: list[str]
    container: list[str]
    transparent: bool


_FORMATS = {
    ".mp4": _Format(
        picture=["-c:v", "libx264", "-crf", "16", "-preset", "medium"],
        sound=["-c:a", "aac", "-b:a", "128k"],
        container=["-movflags", "+faststart"],
        transparent=False,
    ),
    # Alternate reference frames would be encoded without opacity.
    ".webm": _Format(
        picture=[
            "-c:v",
            "libvpx-vp9",
            "-crf",
            "20",
            "-b:v",
            "0",
            "-cpu-used",
            "4",
            "-row-mt",
            "1",
            "-auto-alt-ref",
            "0",
        ],
        sound=["-c:a", "libopus", "-b:a", "96k"],
        container=[],
        transparent=True,
    ),
}
SUFFIXES = tuple(_FORMATS)
"""Ends of names of files that can be written."""

# The flags keep the mean: by default the conversion rounds down. Without the names of the colour
# space, players guess it from the picture's size and colours shift.
_TO_YUV = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_int,"
    "format={pixels},setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"
)


class VideoWriter:
    """Write a video frame by frame; a context manager.

    The file (MP4: H.264 and AAC, index in front; WebM: VP9 and Opus; constant quality, 48 kHz)
    appears under its name when the block ends without an exception; otherwise nothing is left.
    Memory does not grow with the clip. Frames of four channels make a WebM with opacity, colours
    not multiplied by it. Frame t is shown from t/FPS to (t+1)/FPS; sound starts with frame 0 and
    is cut, or padded with silence, to the length of the picture. Odd sizes get their last row or
    column doubled, because yuv420p needs even ones.

    Args:
        path: ends in one of `SUFFIXES`.
        audio: mono samples in [-1, 1], or None for a silent file.
        sample_rate: of `audio`, hertz.

    Raises:
        InputError: (from the block or its end) the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        audio: Float[np.ndarray, " samples"] | None = None,
        sample_rate: int = SAMPLE_RATE,
    ):
        self.path = pathlib.Path(path)
        self.frames = 0
        self._format = _FORMATS[self.path.suffix.lower()]
        self._audio = audio
        self._sample_rate = sample_rate
        self._shape: tuple[int, ...] | None = None
        self._picture: pathlib.Path | None = None
        self._encoder: _Ffmpeg | None = None
        self._context = self._open()

    def __enter__(self) -> Self:
        return self._context.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> bool | None:
        return self._context.__exit__(kind, error, trace)

    def add(self, frame: Frame) -> None:
        """Append one frame, uint8 or float in [0, 1]; all frames have one shape."""
        pixels = to_bytes(frame)
        if self._shape is None:
            self._shape = pixels.shape
            self._encoder = self._start(*pixels.shape)
        if pixels.shape != self._shape or self._encoder is None:
            raise ValueError(f"frame {self.frames} is {pixels.shape}, the first {self._shape}")
        height, width = pixels.shape[:2]
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        self._encoder.write(even.tobytes())
        self.frames += 1

    @contextlib.contextmanager
    def _open(self) -> Iterator[Self]:
        with (
            replacing(self.path) as target,
            tempfile.TemporaryDirectory(prefix=".video-", dir=target.parent) as folder,
        ):
            silent = pathlib.Path(folder) / f"silent{self.path.suffix}"
            self._picture = target if self._audio is None else silent
            try:
                yield self
                if self._encoder is None:
                    raise ValueError("a video needs at least one frame")
                self._encoder.finish()
            finally:
                if self._encoder is not None:
                    self._encoder.kill()
            if self._audio is not None:
                self._add_sound(silent, target)

    def _start(self, height: int, width: int, channels: int) -> "_Ffmpeg":
        if channels == 4 and not self._format.transparent:
            raise ValueError(f"a file like {self.path.name} has no opacity; frames have 4 channels")
        size = f"{width + width % 2}x{height + height % 2}"
        given, stored = ("rgba", "yuva420p") if channels == 4 else ("rgb24", "yuv420p")
        source = ["-f", "rawvideo", "-pix_fmt", given, "-s", size, "-r", str(FPS), "-i", "-"]
        options = ["-vf", _TO_YUV.format(pixels=stored), *self._format.picture]
        return _Ffmpeg([*source, *options, *self._format.container, str(self._picture)], self.path)

    def _add_sound(self, silent: pathlib.Path, target: pathlib.Path) -> None:
        """Copy the picture and encode exactly as much sound beside it.

        The length is known only now; cutting while encoding (`-shortest`) is not exact.
        """
        assert self._audio is not None
        count = round(self.frames * self._sample_rate / FPS)
        sound = silent.with_name("sound.wav")
        save_wave(sound, self._audio, self._sample_rate, count)
        options = ["-c:v", "copy", *self._format.sound, "-ar", str(AUDIO_RATE)]
        inputs = ["-i", str(silent), "-i", str(sound)]
        encoder = _Ffmpeg([*inputs, *options, *self._format.container, str(target)], self.path)
        try:
            encoder.finish()
        finally:
            encoder.kill()


class _Ffmpeg:
    """A running ffmpeg, fed through its standard input."""

    def __init__(self, arguments: list[str], name: pathlib.Path):
        self._name = name
        # Its messages go to a file: a pipe that nobody reads would stop it when full.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `kill`)
        try:
            self._process = subprocess.Popen(
                [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        except (RuntimeError, OSError) as error:
            self._log.close()
            raise InputError(
                f"cannot start ffmpeg to write {name} ({error}); reinstall imageio-ffmpeg"
            ) from error

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except OSError as error:  # it has gone; it says why
            self.finish()
            raise InputError(f"cannot write {self._name}: ffmpeg stopped") from error

    def finish(self) -> None:
        """Wait until the file is complete."""
        with contextlib.suppress(OSError):  # what was buffered may find it gone
            self._process.communicate()
        status = self._process.wait()
        if status:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            # Without the prefix that names a part of ffmpeg: "[out#0/mp4 @ 0x5581] ".
            said = re.sub(r"^\[.*?\] ", "", lines[-1]) if lines else f"status {status}"
            raise InputError(
                f"cannot write {self._name}: ffmpeg: {said}; free some space or choose another"
                " place with --out"
            )

    def kill(self) -> None:
        """Stop it if it still runs, and let go of everything."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._process.communicate()
        self._log.close()
