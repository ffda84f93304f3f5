"""The sizes and choices of the audio-driven deformer."""

import dataclasses

from jaxavatar.deformer.se3 import Integration


@dataclasses.dataclass(frozen=True)
class DriverConfig:
    """Sizes, bounds and ablations of the deformer (paper, sec. 3.2, which gives no numbers).

    Attributes:
        width: d, of driving tokens and attention in the motion head; a multiple of `heads`.
        heads: attention heads of the motion head.
        reach: frames of speech that the fusion sees on either side: lips anticipate the sound.
        window: driving tokens that the Gaussian head attends to on either side of a frame.
        periods: periods of the positional encoding, frames. They are few and short, so that any
            length of clip looks alike.
        head_width: width of the Gaussian head.
        face_code: size of the learned linear code of a Gaussian's face units.
        octaves: of the Fourier features of template positions; wavelengths 2 m / 2^k.
        integration: how twists become transforms, see `se3`.
        initial_rate: initial per-joint memory of leaky integration, in (0, 1).
        face_shift: bound of a face Gaussian's displacement, metres.
        hand_shift: the same for hands.
        body_shift: the same for the rest.
        stretch: bound of the entries of dS; below 1/3, so that I + dS stays positive definite.
        opacity_change: bound of the change of opacity.
        color_change: bound of the change of colour.
        motion_tokens: False regresses the twists from D_t alone (ablation).
        face_offsets: False leaves face Gaussians to skinning (ablation).
        hand_offsets: False leaves hand Gaussians to skinning (ablation).
    """

    width: int = 128
    heads: int = 4
    reach: int = 3
    window: int = 2
    periods: tuple[int, ...] = (25, 50, 100, 200)
    head_width: int = 64
    face_code: int = 32
    octaves: int = 8
    integration: Integration = "leaky"
    initial_rate: float = 0.7
    face_shift: float = 0.03
    hand_shift: float = 0.02
    body_shift: float = 0.01
    stretch: float = 0.2
    opacity_change: float = 0.5
    color_change: float = 0.3
    motion_tokens: bool = True
    face_offsets: bool = True
    hand_offsets: bool = True

    @property
    def halo(self) -> int:
        """Frames before and after a stretch that its output depends on."""
        return self.reach + self.window
