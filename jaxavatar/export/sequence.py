"""Write frames as a folder of numbered PNG files, with the sound beside them."""

import os
import pathlib
import shutil
import tempfile
import types
from typing import Self

import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from jaxavatar.errors import InputError
from jaxavatar.export.picture import to_bytes
from jaxavatar.export.wav import save_wave
from jaxavatar.files import make_ordinary
from jaxavatar.structs import FPS, SAMPLE_RATE


def check_new(path: pathlib.Path) -> pathlib.Path:
    """Return `path` if it is an empty folder or nothing yet.

    Raises:
        InputError: something is there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} holds something; give --out a new folder or a video's name")
    return path


class SequenceWriter:
    """Write pictures 00000.png, 00001.png, ... and sound.wav; a context manager.

    The folder appears under its name when the block ends without an exception; otherwise nothing
    is left. Frames have three channels, or four: then the last is opacity, and colours are not
    multiplied by it.

    Args:
        path: a folder that does not exist yet, or is empty.
        audio: mono samples in [-1, 1], or None.
        sample_rate: of `audio`, hertz.

    Raises:
        InputError: the folder holds something, or cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        audio: Float[np.ndarray, " samples"] | None = None,
        sample_rate: int = SAMPLE_RATE,
    ):
        self.path = pathlib.Path(path)
        self.frames = 0
        self._audio = audio
        self._sample_rate = sample_rate
        self._folder: pathlib.Path | None = None

    def __enter__(self) -> Self:
        check_new(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            name = tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        except OSError as error:
            raise self._failed(error) from error
        self._folder = pathlib.Path(name)
        return self

    def add(self, frame: UInt8[np.ndarray, "H W C"] | Float[np.ndarray | Array, "H W C"]) -> None:
        """Append one frame, uint8 or float in [0, 1]."""
        assert self._folder is not None
        try:
            Image.fromarray(to_bytes(frame)).save(self._folder / f"{self.frames:05}.png")
        except OSError as error:
            raise self._failed(error) from error
        self.frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        assert self._folder is not None
        try:
            if kind is None:
                self._finish(self._folder)
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _finish(self, folder: pathlib.Path) -> None:
        if self._audio is not None:
            count = round(self.frames * self._sample_rate / FPS)
            save_wave(folder / "sound.wav", self._audio, self._sample_rate, count)
        make_ordinary(folder)
        folder.replace(self.path)

    def _failed(self, error: OSError) -> InputError:
        return InputError(
            f"cannot write {self.path}: {error.strerror or error}; free some space or choose"
            " another place with --out"
        )
