"""Sound cut into windows of one length on a grid anchored at time zero, for encoders of A_t.

Speech encoders look at everything they are given, so the same sound gets other states in another
crop. One grid for training, inference and streams makes the features of a moment the same in all
three, keeps memory constant and never compiles again. Each window stands for `step` video frames
and is heard with `context` more on each side; sound that does not exist (before the start, after
the end) is zero, and each window says which part of it exists.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float, Int

from jaxavatar.structs import SAMPLES_PER_FRAME

Windows = Float[np.ndarray, "W samples"]
Spans = Int[np.ndarray, "W 2"]


@dataclasses.dataclass(frozen=True)
class Grid:
    """How sound is cut.

    Attributes:
        step: video frames that a window stands for.
        context: video frames heard on each side of them.
        lead: samples that the encoder needs before its first frame.
        tail: samples that it needs after its last frame; negative where it needs fewer.
    """

    step: int
    context: int
    lead: int = 0
    tail: int = 0

    @property
    def before(self) -> int:
        """Samples of a window before the frames it stands for."""
        return self.context * SAMPLES_PER_FRAME + self.lead

    @property
    def length(self) -> int:
        """Samples of a window."""
        frames = 2 * self.context + self.step
        return self.lead + frames * SAMPLES_PER_FRAME + self.tail


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of sound.

    Attributes:
        samples: of `Grid.length`.
        span: samples [start, end) that exist; sound ends with whole frames and the encoder's tail.
        frames: how many of the frames it stands for exist.
    """

    samples: Float[np.ndarray, " samples"]
    span: tuple[int, int]
    frames: int


def cut(grid: Grid, blocks: Iterable[Float[np.ndarray, " n"]]) -> Iterator[Window]:
    """Cut sound that arrives in blocks of any lengths; yield each window when it is complete."""
    held = np.zeros(grid.before, np.float32)
    start = grid.before - grid.lead
    hop = grid.step * SAMPLES_PER_FRAME
    for block in blocks:
        held = np.concatenate([held, block.astype(np.float32)])
        while len(held) >= grid.length:
            yield Window(held[: grid.length], (start, grid.length), grid.step)
            held, start = held[hop:], max(start - hop, 0)
    left = math.ceil((len(held) - grid.before) / SAMPLES_PER_FRAME)
    while left > 0:
        piece = held[: grid.length]
        end = min(grid.before + left * SAMPLES_PER_FRAME + grid.tail, grid.length)
        padded = np.pad(piece, (0, grid.length - len(piece)))
        yield Window(padded, (start, end), min(left, grid.step))
        held, left, start = held[hop:], left - grid.step, max(start - hop, 0)


def encode(
    grid: Grid,
    blocks: Iterable[Float[np.ndarray, " n"]],
    encoder: Callable[[Windows, Spans], Float[np.ndarray, "W step d"]],
    batch: int,
) -> Iterator[Float[np.ndarray, "n d"]]:
    """Yield the features of sound, `batch` windows at a time, the last ones maybe fewer.

    Args:
        grid: how to cut.
        blocks: consecutive pieces of the sound, any lengths.
        encoder: windows and the samples that exist in each to the features of the frames they
            stand for. It is always called with `batch` windows.
        batch: W.
    """
    ready: list[Window] = []
    for window in cut(grid, blocks):
        ready.append(window)
        if len(ready) == batch:
            yield _encode(grid, ready, encoder, batch)
            ready = []
    if ready:
        yield _encode(grid, ready, encoder, batch)


def _encode(
    grid: Grid,
    ready: list[Window],
    encoder: Callable[[Windows, Spans], Float[np.ndarray, "W step d"]],
    batch: int,
) -> Float[np.ndarray, "n d"]:
    samples = np.zeros((batch, grid.length), np.float32)
    spans = np.tile(np.array([0, grid.length]), (batch, 1))
    for row, window in enumerate(ready):
        samples[row], spans[row] = window.samples, window.span
    features = encoder(samples, spans)
    # Only the last window can be short.
    count = sum(window.frames for window in ready)
    return features.reshape(-1, features.shape[-1])[:count]
