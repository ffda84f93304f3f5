"""Sizes of the in-repository video diffusion transformer."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxavatar.teachers.protocol import TeacherSpec


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the video autoencoder.

    Attributes:
        widths: channels per resolution; each but the first halves height and width.
        temporal: how many of the halvings, the last ones, also halve the number of frames.
        channels: of the latents.
    """

    widths: tuple[int, ...] = (32, 64, 128, 128)
    temporal: int = 0
    channels: int = 8

    @property
    def shrink(self) -> int:
        """Pixels along the side of a latent."""
        return 2 ** (len(self.widths) - 1)

    @property
    def frames(self) -> int:
        """Frames of a latent."""
        return 2**self.temporal


@dataclasses.dataclass(frozen=True)
class VideoDiTConfig:
    """Sizes and choices of the transformer.

    Attributes:
        side: of the square frames, pixels.
        frames: T, of a clip.
        patch: side of a token, in pixels or latents.
        width: of the tokens, a multiple of `heads`.
        depth: blocks.
        heads: of attention.
        audio_width: d_a of the speech features.
        reach: frames of speech on either side that a frame listens to.
        spread: standard deviation of the clip around the reference picture, by which the network
            is preconditioned; latents have values of order 1.
        autoencoder: None works on pixels in [-1, 1].
        remat: recompute blocks in the backward pass.
        bfloat16: compute in bfloat16; parameters and the preconditioning stay float32.
    """

    side: int = 64
    frames: int = 8
    patch: int = 8
    width: int = 160
    depth: int = 3
    heads: int = 4
    audio_width: int = 768
    reach: int = 3
    spread: float = 0.06
    autoencoder: AutoencoderConfig | None = None
    remat: bool = False
    bfloat16: bool = False

    @property
    def dtype(self) -> Any:
        """What the blocks compute in; None leaves it to their inputs and parameters."""
        return jnp.bfloat16 if self.bfloat16 else None

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width and channels of the latents of a clip."""
        if self.autoencoder is None:
            return self.frames, self.side, self.side, 3
        side = self.side // self.autoencoder.shrink
        return self.frames // self.autoencoder.frames, side, side, self.autoencoder.channels

    @property
    def spec(self) -> TeacherSpec:
        """What the teacher expects and predicts."""
        step = self.frames if self.autoencoder is None else self.autoencoder.frames
        return TeacherSpec(
            frame_step=1 if self.autoencoder is None else step,
            size_multiple=self.side,
            context=self.reach,
            shift=3.0,
        )


CONFIGS = {
    "tiny": VideoDiTConfig(),
    "small": VideoDiTConfig(side=96, frames=16, width=256, depth=6, heads=4),
    "base": VideoDiTConfig(
        side=256,
        frames=24,
        patch=2,
        width=768,
        depth=12,
        heads=12,
        spread=0.5,
        autoencoder=AutoencoderConfig(),
        bfloat16=True,
    ),
    "large": VideoDiTConfig(
        side=512,
        frames=32,
        patch=2,
        width=1536,
        depth=24,
        heads=24,
        spread=0.5,
        autoencoder=AutoencoderConfig(widths=(64, 128, 256, 256), temporal=1, channels=16),
        remat=True,
        bfloat16=True,
    ),
}
"""`tiny` trains on two CPU cores within half an hour; `base` and `large` are for accelerators."""
