"""Constants of the image formation and the sizes an engine works with."""

import dataclasses

ALPHA_MIN = 1.0 / 255.0
"""A Gaussian fainter than this in a pixel is skipped there."""

ALPHA_MAX = 0.99
"""No Gaussian hides more than this, which keeps 1 / (1 - alpha) finite in the gradient."""

TRANSMITTANCE_MIN = 1e-4
"""The Gaussian that would let less than this through ends its pixel and is not drawn itself."""

FRUSTUM_MARGIN = 0.15
"""Beyond the image by this share of its size, the local affine map of the projection is frozen."""

COMPENSATION_MIN = 2.5e-5
"""Floor of the determinant ratio under the root of the Mip compensation."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How to render; hashable, so that it can be a static argument.

    Attributes:
        low_pass: variance added to both axes of every 2D Gaussian, pixels^2 (positive).
        antialias: scale each opacity so that the low-pass keeps the Gaussian's total weight.
        capacity: room in the list of (Gaussian, tile) pairs of backends "xla" and "pallas"; None
            means 8 per Gaussian.
        tile: side of the square tiles of backends "xla" and "pallas", pixels; a power of two for
            the latter.
        lanes: tiles that backend "xla" composites side by side.
        chunk: Gaussians that backend "xla" composites per step in each lane.

    Raises:
        ValueError: a value is out of its range.
    """

    low_pass: float = 0.3
    antialias: bool = False
    capacity: int | None = None
    tile: int = 8
    lanes: int = 64
    chunk: int = 8

    def __post_init__(self):
        if not self.low_pass > 0:
            raise ValueError(f"low_pass must be > 0 pixels^2, got {self.low_pass}")
        for name in ("capacity", "tile", "lanes", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
