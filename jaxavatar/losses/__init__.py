"""What training minimises (paper, sec. 3.3)."""

from jaxavatar.losses.arap import arap, neighbour_graph
from jaxavatar.losses.canonical import as_close, as_spherical
from jaxavatar.losses.identity import identity
from jaxavatar.losses.image import l1, psnr, ssim
from jaxavatar.losses.keypoint import keypoint_distance
from jaxavatar.losses.penalty import Penalty, charbonnier, geman_mcclure, robust
from jaxavatar.losses.perceptual import lpips, perceptual
from jaxavatar.losses.total import LossConfig, total
from jaxavatar.losses.trajectory import fast_share, jumps, spectral_distance

__all__ = [
    "LossConfig",
    "Penalty",
    "arap",
    "as_close",
    "as_spherical",
    "charbonnier",
    "fast_share",
    "geman_mcclure",
    "identity",
    "jumps",
    "keypoint_distance",
    "l1",
    "lpips",
    "neighbour_graph",
    "perceptual",
    "psnr",
    "robust",
    "spectral_distance",
    "ssim",
    "total",
]
