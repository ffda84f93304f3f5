"""Sound files to and from 16 kHz mono samples.

One decoder (ffmpeg) serves every format, and one gain per file brings speech to one level: what
follows (a speech recogniser's features, envelopes, gestures) then does not depend on how loud the
microphone was, and a stream can be given the same gain from its first block on.
"""

import os
import pathlib
import subprocess
import wave

import imageio_ffmpeg
import numpy as np
from jaxtyping import Float

from jaxavatar.errors import InputError
from jaxavatar.files import replacing
from jaxavatar.structs import SAMPLE_RATE

SPEECH_LEVEL = -26.0  # dBFS, the active speech level usual for tests of speech codecs (ITU-T P.830)
SILENCE = -60.0  # dBFS
SHORTEST = 0.2  # seconds

_MAX_GAIN = 30.0  # dB; beyond that only noise would come up
_PEAK = 0.99
_GATE = 15.9  # dB below the mean power: the margin of ITU-T P.56
_BLOCK = SAMPLE_RATE // 50


def load(path: str | os.PathLike[str]) -> Float[np.ndarray, " S"]:
    """Read a sound file (WAV, FLAC, MP3, M4A, the sound of a video ...) as levelled 16 kHz mono.

    Args:
        path: the file, any sampling rate and number of channels.

    Returns:
        Float32 samples in [-1, 1] whose active speech level is `SPEECH_LEVEL` (see `level`).

    Raises:
        InputError: the file is missing, holds no readable sound, or is empty, too short or silent.
    """
    return level(load_as_is(path))


def load_as_is(path: str | os.PathLike[str]) -> Float[np.ndarray, " S"]:
    """Read a sound file as 16 kHz mono at its own level; otherwise as `load`."""
    file = pathlib.Path(path)
    if not file.is_file():
        raise InputError(f"no sound file at {file}; check the path")
    if file.stat().st_size == 0:
        raise InputError(f"{file} is empty; give a file with speech in it")
    samples = _decode(file)
    if samples.size == 0:
        raise InputError(f"{file} is empty: it holds no samples; give a file with speech in it")
    return _checked(samples, str(file))


def level(samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """Scale speech to the active level `SPEECH_LEVEL` by one gain.

    The active level is the power of the 20 ms blocks that are not pauses: those less than 15.9 dB
    below the mean power (after ITU-T P.56). The gain is at most 30 dB, and less where the peak
    would exceed full scale.

    Args:
        samples: at 16 kHz, at least one block long, not all zero.

    Returns:
        float32 samples in [-1, 1].
    """
    whole = samples[: len(samples) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).astype(np.float64)
    power = np.mean(whole**2, axis=1)
    active = power[power >= np.mean(power) * 10 ** (-_GATE / 10)].mean()
    gain = 10 ** (SPEECH_LEVEL / 20) / np.sqrt(active)
    gain = min(gain, 10 ** (_MAX_GAIN / 20), _PEAK / np.abs(samples).max())
    return (samples * gain).astype(np.float32)


def save_wav(path: str | os.PathLike[str], samples: Float[np.ndarray, " S"]) -> None:
    """Write 16 kHz mono samples as a 16-bit WAV file; values beyond [-1, 1] are clipped.

    Raises:
        InputError: the place cannot be written.
    """
    words = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2")
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes(words.tobytes())


def _decode(file: pathlib.Path) -> Float[np.ndarray, " S"]:
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    # A local file only ("file:"), so that a name with a colon is never taken for a protocol.
    source = ["-i", f"file:{file}", "-map", "0:a:0"]
    target = ["-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    done = subprocess.run(
        [ffmpeg, "-nostdin", "-v", "error", *source, *target], capture_output=True, check=False
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(
            f"{file} holds no sound that ffmpeg can read ({lines[-1] if lines else 'no message'});"
            " give a WAV, FLAC, MP3 or M4A file"
        )
    return np.frombuffer(done.stdout[: len(done.stdout) // 4 * 4], "<f4")


def _checked(samples: Float[np.ndarray, " S"], name: str) -> Float[np.ndarray, " S"]:
    if not np.isfinite(samples).all():
        raise InputError(f"{name} contains NaN or infinite samples; export the sound again")
    if len(samples) < SHORTEST * SAMPLE_RATE:
        raise InputError(
            f"{name} lasts {len(samples) / SAMPLE_RATE:.2f} s; give at least {SHORTEST} s of speech"
        )
    if np.abs(samples).max() < 10 ** (SILENCE / 20):
        raise InputError(
            f"{name} is silent (all below {SILENCE:.0f} dBFS); give a file with speech in it"
        )
    return samples
