"""The (pixel, Gaussian) pairs that gsplat's torch reference composites: see `gsplat_extension`."""

# pyright: reportMissingImports=false

import math

import numpy as np
import torch
from torch import Tensor

ALPHA_MIN = 1.0 / 255.0
ALPHA_MAX = 0.999
TRANSMITTANCE_MIN = 1e-4

_TILE = 4  # side of the tiles that pairs are looked for in, pixels
_STEP = 16  # Gaussians per tile and step
_TILES = 2048  # tiles side by side: a step's arrays stay in the cache
_MARGIN = 1.01  # on the boxes: rounding must not lose a pair


@torch.no_grad()
def rasterize_to_indices_3dgs(
    range_start: int,
    range_end: int,
    transmittances: Tensor,
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile_size: int,
    offsets: Tensor,
    flatten_ids: Tensor,
) -> tuple[Tensor, Tensor]:
    """List the (pixel, Gaussian) pairs that contribute, by pixel, front to back.

    Alphas of a block of tiles are a matrix product: the exponent of a Gaussian is a polynomial of
    the pixel's place in the tile. They only choose the pairs; gsplat computes its own.

    Args:
        range_start: the first batch of tile_size^2 Gaussians of each tile.
        range_end: one past the last batch.
        transmittances: what is left to each pixel [I, H, W].
        means2d: [I, N, 2].
        conics: xx, xy, yy [I, N, 3].
        opacities: [I, N].
        width: W.
        height: H.
        tile_size: pixels.
        offsets: where each tile's pairs begin in `flatten_ids` [I, TH, TW].
        flatten_ids: flat indices into I * N [M].

    Returns:
        Index of the Gaussian in its image, and flat index of the pixel, image by image.
    """
    images, rows, columns = offsets.reshape(-1, *offsets.shape[-2:]).shape
    begin = offsets.reshape(-1).long()
    end = torch.cat([begin[1:], torch.tensor([len(flatten_ids)])])
    end = torch.minimum(end, begin + range_end * tile_size**2)
    begin = begin + range_start * tile_size**2
    shapes = torch.cat(
        [means2d.reshape(-1, 2), conics.reshape(-1, 3), opacities.reshape(-1, 1).log()], dim=1
    )
    size = math.gcd(tile_size, _TILE)
    grid = (images, rows * (tile_size // size), columns * (tile_size // size))
    ids, begin, end = _rebin(begin, end, flatten_ids, shapes, grid, size, tile_size // size)
    images, rows, columns = grid

    # Pixels in the order of the tiles; those of the padding are finished from the start.
    padding = (0, columns * size - width, 0, rows * size - height)
    left = torch.nn.functional.pad(transmittances.reshape(images, height, width), padding)
    left = left.reshape(images, rows, size, columns, size)
    left = left.permute(0, 1, 3, 2, 4).reshape(-1, size * size)

    used = torch.nonzero(begin < end)[:, 0]
    used = used[torch.argsort(begin[used] - end[used])]  # the longest first: like go together
    counts = torch.zeros((len(begin), size * size), dtype=torch.int64)
    found = []
    for tiles in used.split(_TILES):
        _walk(tiles, begin, end, left, counts, shapes, ids, grid, found)
    if not found:
        return ids[:0], ids[:0]
    gaussians, places, ranks = (torch.cat(parts) for parts in zip(*found, strict=True))

    # From tiles to pixels: each pixel's pairs are consecutive.
    counts = counts.reshape(images, rows, columns, size, size).permute(0, 1, 3, 2, 4)
    counts = counts.reshape(images, rows * size, columns * size)
    counts = counts[:, :height, :width].reshape(-1)
    starts = torch.zeros((images, rows * size, columns * size), dtype=torch.int64)
    starts[:, :height, :width] = (counts.cumsum(0) - counts).reshape(images, height, width)
    starts = starts.reshape(images, rows, size, columns, size)
    starts = starts.permute(0, 1, 3, 2, 4).reshape(-1)
    listed = torch.empty_like(gaussians)
    listed[starts[places] + ranks] = gaussians
    pixels = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return listed % means2d.shape[-2], pixels


def _rebin(begin, end, flatten_ids, shapes, grid, size, split):
    """Share the lists of tiles out to smaller ones, so that fewer pairs have to be looked at."""
    _, rows, columns = grid
    lengths = (end - begin).clamp_min(0)
    tile = torch.repeat_interleave(torch.arange(len(begin)), lengths)
    where = torch.arange(len(tile)) - (lengths.cumsum(0) - lengths - begin)[tile]
    ids = flatten_ids[where].long()

    x, y, xx, xy, yy, log_opacity = shapes[ids].unbind(-1)
    variances = torch.stack([yy, xx], dim=1) / (xx * yy - xy * xy)[:, None]
    spread = 2 * (log_opacity - math.log(ALPHA_MIN)).clamp_min(0)
    reach = (spread[:, None] * variances).sqrt() * _MARGIN + _MARGIN - 1
    corner = torch.stack([tile % (columns // split), tile // (columns // split)], dim=1) * split
    image = corner[:, 1] // rows
    corner[:, 1] %= rows
    centre = torch.stack([x, y], dim=1)
    first = torch.maximum(((centre - reach) / size).floor().long(), corner)
    last = torch.minimum(((centre + reach) / size).ceil().long(), corner + split)
    span = (last - first).clamp_min(0)

    pair, column, row = boxes(first, span, span.prod(-1))
    keys = sort(((image[pair] * rows + row) * columns + column) << 32 | pair)
    ends = torch.bincount(keys >> 32, minlength=math.prod(grid)).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return ids[keys & 0xFFFFFFFF], starts, ends


def _walk(tiles, begin, end, left, counts, shapes, ids, grid, found) -> None:
    """Walk some tiles' lists front to back; append (Gaussian, place, rank in the pixel)."""
    _, rows, columns = grid
    block = left.shape[1]
    size = math.isqrt(block)
    local = torch.arange(size, dtype=shapes.dtype) + 0.5
    v, u = (a.reshape(-1) for a in torch.meshgrid(local, local, indexing="ij"))
    basis = torch.stack([u * u, u * v, v * v, u, v, torch.ones_like(u)])
    at, stop, light = begin[tiles], end[tiles], left[tiles]
    steps = torch.arange(_STEP)[:, None]
    while len(tiles):
        where = at + steps
        listed = ids[where.clamp_max(len(ids) - 1)]
        x, y, xx, xy, yy, log_opacity = shapes[listed].unbind(-1)
        x = x - (tiles % columns) * size
        y = y - (tiles // columns % rows) * size
        log_opacity = torch.where(where < stop, log_opacity, -torch.inf)
        u, v = xx * x + xy * y, xy * x + yy * y
        constant = log_opacity - 0.5 * (u * x + v * y)
        polynomial = torch.stack([-0.5 * xx, -xy, -0.5 * yy, u, v, constant], dim=-1)
        alpha = (polynomial.reshape(-1, 6) @ basis).reshape(_STEP, len(tiles), block).exp_()
        hit = alpha >= ALPHA_MIN
        through = (1 - alpha.clamp_max_(ALPHA_MAX)).masked_fill_(~hit, 1)
        for step in range(_STEP):
            light = light * through[step]
            hit[step] &= light > TRANSMITTANCE_MIN

        place, rank, step = _pairs(hit)
        tile = place // block
        found.append((listed[step, tile], tiles[tile] * block + place % block, rank))
        seen = counts[tiles]
        found[-1][2].add_(seen.reshape(-1)[place])
        counts[tiles] = seen + hit.sum(0)

        at = at + _STEP
        alive = torch.nonzero((at < stop) & (light > TRANSMITTANCE_MIN).any(1))[:, 0]
        tiles, at, stop, light = tiles[alive], at[alive], stop[alive], light[alive]


def _pairs(hit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """List the true entries of [G, A, P] by place in A * P, then G: place, rank there, g."""
    by_place = hit.reshape(len(hit), -1).T.contiguous()
    place, step = torch.nonzero(by_place, as_tuple=True)
    counts = by_place.sum(1)
    rank = torch.arange(len(place)) - (counts.cumsum(0) - counts)[place]
    return place, rank, step


def boxes(first, span, counts):
    """List the cells of boxes, box by box: index of the box, column, row."""
    box = torch.repeat_interleave(torch.arange(len(first)), counts)
    within = torch.arange(len(box)) - (counts.cumsum(0) - counts)[box]
    width = span[box, 0]
    row = within // width
    return box, first[box, 0] + within - row * width, first[box, 1] + row


def sort(keys: Tensor) -> Tensor:
    """Sort integers; NumPy's vectorised sort is several times as fast as torch's."""
    return torch.from_numpy(np.sort(keys.numpy()))
