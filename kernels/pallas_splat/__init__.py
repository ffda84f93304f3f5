"""A differentiable Gaussian splatter in JAX with interchangeable engines."""

from pallas_splat.api import estimate_capacity, render
from pallas_splat.config import Config
from pallas_splat.densify import Relocation, grow, perturb, relocate, reset_rows
from pallas_splat.engines import available, default_backend
from pallas_splat.sh import sh_colors
from pallas_splat.sharding import render_sharded
from pallas_splat.structs import Camera, Gaussians, Info, Rendered
from pallas_splat.transforms import move_rigid, move_skinned
from pallas_splat.values import check_values

__all__ = [
    "Camera",
    "Config",
    "Gaussians",
    "Info",
    "Relocation",
    "Rendered",
    "available",
    "check_values",
    "default_backend",
    "estimate_capacity",
    "grow",
    "move_rigid",
    "move_skinned",
    "perturb",
    "relocate",
    "render",
    "render_sharded",
    "reset_rows",
    "sh_colors",
]
