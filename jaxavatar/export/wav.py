"""Write sound as a WAV file."""

import pathlib
import wave

import numpy as np
from jaxtyping import Float


def save_wave(
    path: pathlib.Path, samples: Float[np.ndarray, " samples"], rate: int, count: int
) -> None:
    """Write mono sound in 16 bits, cut or padded with silence to a number of samples.

    Args:
        path: of the file.
        samples: in [-1, 1], clipped.
        rate: hertz.
        count: samples to write.
    """
    samples = np.clip(samples[:count], -1, 1)
    samples = np.pad(samples, (0, count - len(samples)))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, count, "NONE", ""))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
