"""The transformer that regresses canonical Gaussians from one photo (paper, sec. 3.1)."""

from jaxavatar.reconstruction.transformer.config import (
    CONFIGS,
    DinoConfig,
    TransformerConfig,
    VitConfig,
)
from jaxavatar.reconstruction.transformer.gaussians import CanonicalGaussians, scale_clip
from jaxavatar.reconstruction.transformer.model import Crops, ImageTokens, Reconstructor
from jaxavatar.reconstruction.transformer.resample import to_square

__all__ = [
    "CONFIGS",
    "CanonicalGaussians",
    "Crops",
    "DinoConfig",
    "ImageTokens",
    "Reconstructor",
    "TransformerConfig",
    "VitConfig",
    "scale_clip",
    "to_square",
]
