"""A differentiable Gaussian splatter in JAX with interchangeable engines."""

from pallas_splat.api import estimate_capacity, render
from pallas_splat.config import Config
from pallas_splat.engines import available, default_backend
from pallas_splat.sh import sh_colors
from pallas_splat.structs import Camera, Gaussians, Info, Rendered
from pallas_splat.values import check_values

__all__ = [
    "Camera",
    "Config",
    "Gaussians",
    "Info",
    "Rendered",
    "available",
    "check_values",
    "default_backend",
    "estimate_capacity",
    "render",
    "sh_colors",
]
