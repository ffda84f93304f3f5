"""Sizes of Wan2.1's video transformer and autoencoder with OmniAvatar's audio adapter.

Wan2.1-T2V (Wan Team, 2025) and OmniAvatar (Gan et al., 2025) are released under Apache-2.0.
"""

import dataclasses

import jax.numpy as jnp

from jaxavatar.reconstruction.transformer.attention import Method
from jaxavatar.teachers.wan.precision import Precision, rounded


@dataclasses.dataclass(frozen=True)
class AudioConfig:
    """OmniAvatar's audio adapter.

    Attributes:
        features: numbers per video frame: the last layer and all 13 states of wav2vec 2.0 base.
        group: frames that one latent frame stands for.
        hidden: numbers that remain of a group.
    """

    features: int = 14 * 768
    group: int = 4
    hidden: int = 32


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The video diffusion transformer.

    Attributes:
        width: of the tokens; `heads` times an even number.
        heads: attention heads.
        layers: blocks; even.
        feed_forward: hidden width of the blocks' feed-forward networks.
        in_channels: noisy latents, and with the adapter the reference's latents and a mask.
        out_channels: latents.
        text_width: of the text embeddings (umt5-xxl: 4096).
        text_tokens: to which texts are filled up with zeros.
        frequencies: numbers that the time is written as; even.
        patch: height and width of a patch of latents.
        audio: the adapter; None for text alone.
        precision: "inherit" computes in the type of inputs and parameters; "bfloat16" rounds the
            inputs of matrix products and keeps the residual stream, normalisations and modulation
            in float32.
        attention: how attention is computed, see `attention.attend`: "dense" suits clips of a few
            thousand tokens, "cudnn" NVIDIA GPUs, "blocks" long clips elsewhere.
        remat: recompute the blocks in a backward pass.
    """

    width: int = 1536
    heads: int = 12
    layers: int = 30
    feed_forward: int = 8960
    in_channels: int = 33
    out_channels: int = 16
    text_width: int = 4096
    text_tokens: int = 512
    frequencies: int = 256
    patch: int = 2
    audio: AudioConfig | None = AudioConfig()
    precision: Precision = "inherit"
    attention: Method = "dense"
    remat: bool = False

    @property
    def dtype(self) -> jnp.dtype | None:
        """Type of the matrix products' inputs; None follows inputs and parameters."""
        return rounded(self.precision)

    @property
    def heard(self) -> range:
        """Blocks before which the audio is added."""
        return range(2, self.layers // 2 + 1) if self.audio else range(0)


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The causal video autoencoder: 4 n + 1 frames to n + 1 latent frames, sides to an eighth.

    Attributes:
        base: channels of the first stage.
        multipliers: of `base`, for each stage.
        halve_time: whether the step after each stage but the last halves time as well as space.
        blocks: residual blocks per stage of the encoder; the decoder has one more.
        latents: channels of the latents.
        mean: of every latent channel, subtracted.
        deviation: by which the difference is divided.
        precision: as for the transformer.
    """

    base: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    halve_time: tuple[bool, ...] = (False, True, True)
    blocks: int = 2
    latents: int = 16
    mean: tuple[float, ...] = (
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    )
    deviation: tuple[float, ...] = (
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    )
    precision: Precision = "inherit"

    @property
    def dtype(self) -> jnp.dtype | None:
        """Type of the convolutions' inputs; None follows inputs and parameters."""
        return rounded(self.precision)

    @property
    def widths(self) -> list[int]:
        """Channels of the encoder's stages; the decoder's come in the other order."""
        return [self.base * multiplier for multiplier in self.multipliers]

    @property
    def space(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** len(self.halve_time)

    @property
    def time(self) -> int:
        """Frames per latent frame, after the first."""
        return 2 ** sum(self.halve_time)


@dataclasses.dataclass(frozen=True)
class WanConfig:
    """A teacher.

    Attributes:
        transformer: predicts velocities.
        autoencoder: makes the latents.
        fps: frames per second.
        shift: of the sampler's times.
    """

    transformer: TransformerConfig = TransformerConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    fps: float = 25.0
    shift: float = 5.0

    def __post_init__(self) -> None:
        audio = self.transformer.audio
        if audio and audio.group != self.autoencoder.time:
            raise ValueError(
                f"the adapter groups {audio.group} frames, a latent frame holds"
                f" {self.autoencoder.time}"
            )


CONFIGS: dict[str, WanConfig] = {
    "tiny": WanConfig(
        transformer=TransformerConfig(
            width=24,
            heads=2,
            layers=6,
            feed_forward=32,
            text_width=16,
            text_tokens=12,
            frequencies=16,
            audio=AudioConfig(features=20, hidden=8),
        ),
        autoencoder=AutoencoderConfig(base=4, blocks=1),
    ),
    "1.3b": WanConfig(),
    "14b": WanConfig(
        transformer=TransformerConfig(width=5120, heads=40, layers=40, feed_forward=13824)
    ),
}
