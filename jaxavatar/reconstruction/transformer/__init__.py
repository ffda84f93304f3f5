"""The transformer that regresses canonical Gaussians from one photo (paper, sec. 3.1)."""

from jaxavatar.reconstruction.transformer.config import (
    CONFIGS,
    DinoConfig,
    TransformerConfig,
    VitConfig,
)
from jaxavatar.reconstruction.transformer.gaussians import CanonicalGaussians, scale_clip
from jaxavatar.reconstruction.transformer.model import Crops, ImageTokens, Reconstructor
from jaxavatar.reconstruction.transformer.placed import Changes, PhotoPoints, apply_changes
from jaxavatar.reconstruction.transformer.resample import to_square

__all__ = [
    "CONFIGS",
    "CanonicalGaussians",
    "Changes",
    "Crops",
    "DinoConfig",
    "ImageTokens",
    "PhotoPoints",
    "Reconstructor",
    "TransformerConfig",
    "VitConfig",
    "apply_changes",
    "scale_clip",
    "to_square",
]
