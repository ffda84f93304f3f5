"""Sizes and choices of the transformer that regresses an avatar from one photo.

`mini`, `500m` and `1b` are LHM's released sizes (Qiu et al., 2025), `hand++` is the paper's model
(sec. 3.1: the 500m one with the hand branch, and the weight decoder), and `tiny` trains on a CPU.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp

Precision = Literal["inherit", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """A plain vision transformer, as the body and hand encoders are.

    Attributes:
        size: height and width of the input, pixels.
        patch: side of a patch, pixels.
        padding: zeros around the image before it is cut into patches, pixels.
        width: of the tokens; a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads.
        mean: subtracted from RGB in [0, 1].
        deviation: by which the difference is divided.
        class_token: let a token without a place take part in attention; it is not among the output.
    """

    size: tuple[int, int]
    patch: int
    padding: int
    width: int
    depth: int
    heads: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    deviation: tuple[float, float, float] = (0.229, 0.224, 0.225)
    class_token: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = ((n + 2 * self.padding) // self.patch for n in self.size)
        return rows, columns

    @property
    def tokens(self) -> int:
        """Number of patches."""
        return self.grid[0] * self.grid[1]


@dataclasses.dataclass(frozen=True)
class DinoConfig:
    """DINOv2 with registers and the head that fuses four of its depths.

    Attributes:
        size: side of the square input, pixels; the image is not normalised.
        patch: side of a patch, pixels.
        width: of the tokens; a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads.
        registers: tokens without a place.
        grid: patches along a side of the images that the positions were trained for.
        taken: blocks, counted from 0, whose outputs are fused.
    """

    size: int = 448
    patch: int = 14
    width: int = 1024
    depth: int = 24
    heads: int = 16
    registers: int = 4
    grid: int = 37
    taken: tuple[int, ...] = (4, 11, 17, 23)

    @property
    def tokens(self) -> int:
        """Number of patches."""
        return (self.size // self.patch) ** 2


# Sapiens-1B's pretrained backbone as LHM uses it: 64 x 64 tokens of 1536 numbers.
SAPIENS_1B = VitConfig(
    (1024, 1024), 16, 0, 1536, 40, 24, (0.4844, 0.4570, 0.4062), (0.2295, 0.2236, 0.2256), True
)
# HaMeR's backbone (Pavlakos et al., 2024): ViT-H on crops of 256 x 192, padded by two pixels.
HAMER = VitConfig((256, 192), 16, 2, 1280, 32, 16)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The Multimodal Body-Head Transformer, its encoders and its decoders.

    Attributes:
        points: query points, which become Gaussians; the last quarter belongs to the head.
        layers: body-head blocks; each holds a block for the head and one for all points.
        width: of the tokens; a multiple of `heads`.
        heads: attention heads.
        body: encoder of the whole photo.
        head: encoder of the head crop; not wider than `body`.
        hand: encoder of the hand crops.
        decoder_width: of the two hidden layers before the Gaussians.
        placed: decode Gaussians that were placed on the photo's pixels and on the unseen surface
            (module `placed`), and tell the query points what the photo shows near them; False
            decodes one Gaussian per query point, as LHM does.
        sh_degree: of spherical harmonics; None predicts RGB.
        hand_branch: append hand tokens to the keys and values; False removes them (ablation
            "w/o hand enhancement").
        weight_decoder: predict residual skinning weights; False keeps the template's (ablation
            "w/o weight decoder").
        precision: "inherit" computes in the type of inputs and parameters (float32, or float64
            under x64); "bfloat16" rounds the inputs of matrix products, and keeps sums,
            normalisations and the Gaussians in float32.
        remat: recompute the blocks in the backward pass instead of storing what is inside them.
    """

    points: int = 40_000
    layers: int = 5
    width: int = 1024
    heads: int = 16
    body: VitConfig = SAPIENS_1B
    head: DinoConfig = DinoConfig()
    hand: VitConfig = HAMER
    decoder_width: int = 512
    placed: bool = False
    sh_degree: int | None = None
    hand_branch: bool = False
    weight_decoder: bool = False
    precision: Precision = "inherit"
    remat: bool = False

    @property
    def dtype(self) -> jnp.dtype | None:
        """Type of the matrix products' inputs; None follows inputs and parameters."""
        return jnp.dtype(jnp.bfloat16) if self.precision == "bfloat16" else None


CONFIGS: dict[str, TransformerConfig] = {
    "tiny": TransformerConfig(
        points=512,
        layers=3,
        width=128,
        heads=4,
        body=VitConfig((240, 144), 16, 0, 192, 4, 6),
        head=DinoConfig(112, 14, 128, 4, 4, 2, 8, (0, 1, 2, 3)),
        hand=VitConfig((64, 64), 8, 0, 96, 3, 3),
        decoder_width=96,
        placed=True,
        hand_branch=True,
        weight_decoder=True,
    ),
    "mini": TransformerConfig(points=20_000, layers=2),
    "500m": TransformerConfig(),
    "1b": TransformerConfig(layers=15),
    "hand++": TransformerConfig(hand_branch=True, weight_decoder=True),
}
