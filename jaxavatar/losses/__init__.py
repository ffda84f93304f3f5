"""What training minimises (paper, sec. 3.3)."""

from jaxavatar.losses.arap import arap, neighbour_graph
from jaxavatar.losses.canonical import as_close, as_spherical
from jaxavatar.losses.image import l1, psnr
from jaxavatar.losses.keypoint import charbonnier, keypoint_distance
from jaxavatar.losses.total import LossConfig, total

__all__ = [
    "LossConfig",
    "arap",
    "as_close",
    "as_spherical",
    "charbonnier",
    "keypoint_distance",
    "l1",
    "neighbour_graph",
    "psnr",
    "total",
]
