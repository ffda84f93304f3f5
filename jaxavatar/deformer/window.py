"""Stretches of a driving signal with the frames around them that the networks look at.

The fusion and the Gaussian head look a few frames back and ahead. A `Window` holds these extra
frames and marks those outside the clip, so that a clip cut into windows is driven exactly like
the whole clip.
"""

import dataclasses

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxavatar.structs import SEGMENT_FRAMES, Drive


@flax.struct.dataclass
class Window:
    """T frames of a clip and `halo` frames more on either side.

    Attributes:
        drive: T + 2 halo frames; those outside the clip repeat its ends.
        valid: which of the frames the clip has.
    """

    drive: Drive
    valid: Bool[Array, " T_halo"]


def whole(drive: Drive, halo: int) -> Window:
    """Return the window of a whole clip: nothing exists around it."""
    return _cut(drive, 0, drive.audio.shape[0], halo)


def chunk(drive: Drive, start: int, frames: int, halo: int) -> Window:
    """Cut frames `start` to `start + frames` out of a clip, past its end if need be.

    Its text holds the two segments that a window this short can touch, so every chunk of every
    clip has the same shapes and one compiled function serves them all.

    Args:
        drive: the clip, of at least one frame; of numpy arrays, so that clips of new lengths need
            no compilation here either.
        start: first frame, at least 0.
        frames: length of the chunk; `frames + 2 * halo` must not exceed `SEGMENT_FRAMES`.
        halo: frames to add on either side.

    Raises:
        ValueError: the chunk is too long.
    """
    if frames + 2 * halo > SEGMENT_FRAMES:
        raise ValueError(f"a chunk has at most {SEGMENT_FRAMES - 2 * halo} frames, got {frames}")
    window = _cut(drive, start, frames, halo)
    first = window.drive.segment[0]
    rows = (first + np.arange(2)).clip(0, drive.text.shape[0] - 1)
    return dataclasses.replace(
        window,
        drive=dataclasses.replace(
            window.drive,
            text=drive.text[rows],
            text_mask=drive.text_mask[rows],
            segment=window.drive.segment - first,
        ),
    )


def _cut(drive: Drive, start: int, frames: int, halo: int) -> Window:
    total = drive.audio.shape[0]
    index = start + np.arange(-halo, frames + halo)
    row = index.clip(0, total - 1)
    return Window(
        drive=dataclasses.replace(
            drive, audio=drive.audio[row], segment=drive.segment[row], time=drive.time[row]
        ),
        valid=jnp.asarray((index >= 0) & (index < total)),
    )
