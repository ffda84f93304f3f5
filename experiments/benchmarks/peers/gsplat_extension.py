"""What gsplat's torch reference takes from CUDA, for the CPU.

`gsplat.rendering._rasterization` is gsplat's own reference: projection, compositing and all
gradients are torch. It calls compiled code in four places, none of them differentiated except the
last. They are replaced here, and nothing else of gsplat is:

- `gsplat.csrc.intersect_tile`: the list of (tile, Gaussian) pairs, sorted by depth in each tile;
  gsplat's own torch version, a Python loop over Gaussians, or ours (`install(fast_lists=True)`);
- `gsplat.csrc.intersect_offset`: gsplat's own torch version of it;
- `gsplat.csrc.rasterize_to_indices_3dgs`: the (pixel, Gaussian) pairs that contribute;
- `nerfacc.render_weight_from_alpha` and `nerfacc.accumulate_along_rays`: products and sums along
  the list of each pixel (nerfacc's are CUDA kernels).

Ours are written for the CPU in torch and NumPy and meant to be fast, so that the peer is not slowed
by what is not its own.
"""

# pyright: reportMissingImports=false

import importlib
import sys
import types

import torch
from torch import Tensor

from experiments.benchmarks.peers import gsplat_pairs


def install(fast_lists: bool) -> types.ModuleType:
    """Put the replacements where gsplat looks for them.

    Args:
        fast_lists: whether to list pairs with our function instead of gsplat's Python loop.

    Returns:
        `gsplat.rendering`.

    Raises:
        ImportError: gsplat is not installed.
    """
    extension = _module(
        "gsplat.csrc",
        intersect_tile=intersect_tile if fast_lists else gsplat_intersect_tile,
        intersect_offset=intersect_offset,
        rasterize_to_indices_3dgs=gsplat_pairs.rasterize_to_indices_3dgs,
    )
    sys.modules["gsplat.cuda._backend"] = _module("gsplat.cuda._backend", _C=extension)
    sys.modules["nerfacc"] = _module(
        "nerfacc",
        render_weight_from_alpha=render_weight_from_alpha,
        accumulate_along_rays=accumulate_along_rays,
    )
    return importlib.import_module("gsplat.rendering")


def _module(name: str, **functions) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(functions)
    return module


def gsplat_intersect_tile(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    _image_ids: None,
    _gaussian_ids: None,
    _images: int,
    tile_size: int,
    tile_width: int,
    tile_height: int,
    _sort: bool,
    _segmented: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """List the (tile, Gaussian) pairs: gsplat's own torch function. See `intersect_tile`."""
    module = importlib.import_module("gsplat.cuda._torch_impl")
    return module._isect_tiles(means2d, radii, depths, tile_size, tile_width, tile_height)


def intersect_tile(
    means2d: Tensor,
    radii: Tensor,
    depths: Tensor,
    _image_ids: None,
    _gaussian_ids: None,
    images: int,
    tile_size: int,
    tile_width: int,
    tile_height: int,
    _sort: bool,
    _segmented: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """List the (tile, Gaussian) pairs, by image, tile and depth.

    Args:
        means2d: centres, pixels [I, N, 2].
        radii: half sizes of the boxes, pixels, 0 where not visible [I, N, 2].
        depths: [I, N].
        images: I.
        tile_size: pixels.
        tile_width: tiles per row.
        tile_height: tiles per column.

    Returns:
        Tiles per Gaussian [I, N], sort keys whose upper 32 bits are image and tile [M], and flat
        indices into I * N [M].
    """
    n = means2d.shape[-2]
    order = torch.argsort(depths.reshape(-1), stable=True)
    flat = means2d.reshape(-1, 2)[order] / tile_size
    reach = radii.reshape(-1, 2)[order] / tile_size
    bounds = torch.tensor([tile_width, tile_height])
    first = torch.minimum((flat - reach).floor().long().clamp_min(0), bounds)
    last = torch.minimum((flat + reach).ceil().long().clamp_min(0), bounds)
    span = (last - first) * (reach > 0).all(-1, keepdim=True)
    counts = span.prod(-1)

    rank, column, row = gsplat_pairs.boxes(first, span, counts)
    tile = ((order[rank] // n) << (tile_width * tile_height).bit_length()) | (
        row * tile_width + column
    )
    keys = gsplat_pairs.sort(tile << 32 | rank)

    per_gaussian = torch.empty_like(counts).scatter_(0, order, counts)
    return per_gaussian.reshape(images, n).int(), keys, order[keys & 0xFFFFFFFF].int()


def intersect_offset(keys: Tensor, images: int, tile_width: int, tile_height: int) -> Tensor:
    """Find where each tile's pairs begin: gsplat's own torch function."""
    module = importlib.import_module("gsplat.cuda._torch_impl")
    return module._isect_offset_encode(keys, images, tile_width, tile_height)


def render_weight_from_alpha(
    alphas: Tensor, *, ray_indices: Tensor, n_rays: int
) -> tuple[Tensor, Tensor]:
    """Weigh the samples of each ray: alpha times the product of 1 - alpha before it.

    The product is a sum of logarithms in float64, whose gradient torch knows; gsplat
    keeps alphas below one.

    Args:
        alphas: sorted by ray, front to back [M].
        ray_indices: [M].
        n_rays: number of rays.

    Returns:
        Weights and transmittances [M].
    """
    logs = torch.log1p(-alphas.double())
    before = logs.cumsum(0) - logs
    counts = torch.bincount(ray_indices, minlength=n_rays)
    starts = (counts.cumsum(0) - counts)[ray_indices]
    transmittance = torch.exp(before - before[starts]).to(alphas.dtype)
    return alphas * transmittance, transmittance


def accumulate_along_rays(
    weights: Tensor, values: Tensor | None, *, ray_indices: Tensor, n_rays: int
) -> Tensor:
    """Sum weighted values along each ray.

    Args:
        weights: [M].
        values: [M, C]; None counts as ones.
        ray_indices: [M].
        n_rays: number of rays.

    Returns:
        [n_rays, C], or [n_rays, 1] without values.
    """
    weighted = weights[:, None] if values is None else weights[:, None] * values
    sums = weighted.new_zeros((n_rays, weighted.shape[1]))
    return sums.index_add(0, ray_indices, weighted)
