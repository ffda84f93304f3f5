"""Which triangle does each pixel see? A z-buffer on the host, used once per photo."""

import numpy as np
from jaxtyping import Float, Int


def rasterise(
    points: Float[np.ndarray, "V 2"],
    depth: Float[np.ndarray, " V"],
    faces: Int[np.ndarray, "F 3"],
    size: tuple[int, int],
) -> tuple[Int[np.ndarray, "H W"], Float[np.ndarray, "H W 3"]]:
    """Find the nearest triangle under every pixel centre.

    Triangles are handled in classes of equal bounding-box size, so that each class is a handful
    of array operations. Barycentric weights are affine in the image, which is exact enough for
    triangles much smaller than their distance.

    Args:
        points: projected vertices, pixels.
        depth: distance of the vertices along the viewing axis, metres; triangles with a vertex
            at or behind zero are skipped.
        faces: vertex indices.
        size: (height, width) of the image.

    Returns:
        The triangle index of every pixel (-1 where there is none) and its barycentric weights.
    """
    height, width = size
    corners = points[faces]
    low = np.floor(corners.min(1) - 0.5).astype(np.int64)
    high = np.ceil(corners.max(1) - 0.5).astype(np.int64)
    extent = (high - low).max(1) + 1
    visible = (high >= 0).all(1) & (low < [width, height]).all(1) & (depth[faces] > 0).all(1)
    best = np.full(height * width, np.inf)
    owner = np.full(height * width, -1, np.int64)
    weights = np.zeros((height * width, 3))

    side = 2
    previous = 0
    while visible.any() and previous < extent[visible].max():
        for chunk in _chunks(
            np.flatnonzero(visible & (extent > previous) & (extent <= side)), side
        ):
            _draw(chunk, side, corners, low, depth, faces, size, best, owner, weights)
        previous, side = side, side * 2
    return owner.reshape(size), weights.reshape(height, width, 3)


def _chunks(triangles: np.ndarray, side: int, budget: int = 4_000_000) -> list[np.ndarray]:
    """Split triangles so that one batch of candidate pixels stays within `budget`."""
    count = max(1, -(-len(triangles) * side * side // budget))
    return [chunk for chunk in np.array_split(triangles, count) if len(chunk)]


def _draw(chunk, side, corners, low, depth, faces, size, best, owner, weights) -> None:
    """Test `side` x `side` candidate pixels per triangle and keep the nearest ones in place."""
    height, width = size
    step = np.arange(side)
    x = low[chunk, 0, None, None] + step[None, None, :]
    y = low[chunk, 1, None, None] + step[None, :, None]
    x, y = np.broadcast_arrays(x, y)
    a, b, c = (corners[chunk, i][:, :, None, None] for i in range(3))
    px, py = x + 0.5, y + 0.5
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        wb = ((px - a[:, 0]) * (c[:, 1] - a[:, 1]) - (py - a[:, 1]) * (c[:, 0] - a[:, 0])) / area
        wc = ((b[:, 0] - a[:, 0]) * (py - a[:, 1]) - (b[:, 1] - a[:, 1]) * (px - a[:, 0])) / area
    wa = 1.0 - wb - wc
    slack = -1e-9
    inside = (wa >= slack) & (wb >= slack) & (wc >= slack)
    inside &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
    t, i, j = np.nonzero(inside)
    w = np.stack([wa[t, i, j], wb[t, i, j], wc[t, i, j]], -1)
    z = (depth[faces[chunk[t]]] * w).sum(-1)
    pixel = y[t, i, j] * width + x[t, i, j]
    # Far to near (ties by index), so that the last write of a pixel is the nearest.
    order = np.lexsort((-chunk[t], -z))
    pixel, z, t, w = pixel[order], z[order], t[order], w[order]
    last = np.zeros(len(pixel), bool)
    _, first_of_reversed = np.unique(pixel[::-1], return_index=True)
    last[len(pixel) - 1 - first_of_reversed] = True
    wins = last & (z < best[pixel])
    best[pixel[wins]] = z[wins]
    owner[pixel[wins]] = chunk[t[wins]]
    weights[pixel[wins]] = w[wins]
