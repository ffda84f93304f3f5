"""What the splatter's benchmark renders, and the engines it knows by name."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

SCENES = ("avatar", "clustered")
PEERS = (
    "gsplat-torch",
    "gsplat-torch-tuned",
    "gsplat-cuda-packed",
    "gsplat-cuda-unpacked",
    "splax",
)
_ORBIT = 0.05  # radians from one camera of a batch to the next


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to render.

    Attributes:
        scene: a name in `SCENES`.
        gaussians: how many.
        pixels: of the image's longer side.
        batch: cameras, rendered at once.
    """

    scene: str
    gaussians: int
    pixels: int
    batch: int

    def __str__(self) -> str:
        """Name it briefly."""
        cameras = f" x {self.batch}" if self.batch > 1 else ""
        return f"{self.scene} {count(self.gaussians)} @ {self.pixels}{cameras}"

    def at_most(self, other: "Case") -> bool:
        """Whether it is the same scene and no larger in any respect."""
        mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
        return self.scene == other.scene and all(a <= b for a, b in zip(mine, others, strict=True))


def count(n: int) -> str:
    """Write a number of Gaussians briefly: 10k, 1M."""
    return f"{n // 10**6}M" if n % 10**6 == 0 else f"{n / 1000:g}k"


DEFAULT = (
    Case("avatar", 10_000, 256, 1),
    Case("clustered", 10_000, 256, 1),
    Case("avatar", 10_000, 512, 1),
    Case("clustered", 10_000, 512, 1),
    Case("avatar", 10_000, 1024, 1),
    Case("avatar", 10_000, 256, 8),
    Case("avatar", 40_000, 512, 1),
    Case("clustered", 40_000, 512, 1),
    Case("avatar", 40_000, 1024, 1),
    Case("avatar", 100_000, 512, 1),
    Case("clustered", 100_000, 512, 1),
    Case("avatar", 100_000, 1024, 1),
    Case("avatar", 1_000_000, 512, 1),
)
"""Small cases first; chosen to show growth in each respect within twelve minutes."""


def cases(
    scenes: Iterable[str], sizes: Iterable[str] | None, batches: Iterable[int] | None
) -> list[Case]:
    """List cases, the small ones first.

    Args:
        scenes: names.
        sizes: as `10000x256`, Gaussians and pixels; None for those of `DEFAULT`.
        batches: numbers of cameras; None for those of `DEFAULT`, or 1 where sizes are given.

    Raises:
        ValueError: a size is not two numbers.
    """
    if sizes is None:
        return [
            case
            for case in DEFAULT
            if case.scene in scenes and (batches is None or case.batch in batches)
        ]
    grid = itertools.product(scenes, map(_size, sizes), batches or (1,))
    listed = [Case(scene, n, pixels, batch) for scene, (n, pixels), batch in grid]
    return sorted(listed, key=lambda case: case.batch * case.gaussians * case.pixels)


def _size(text: str) -> tuple[int, int]:
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ValueError(f"a size must be GAUSSIANSxPIXELS, got {text!r}")
    return int(parts[0]), int(parts[1])


def arrays(case: Case) -> dict[str, np.ndarray]:
    """Make a case's inputs, the same for every engine.

    Gaussians have no linear map, which peers do not know. Cameras of a batch turn about the
    Gaussians' mean depth, the first being the scene's own.

    Returns:
        Float32 means [N, 3], quats [N, 4], scales [N, 3], opacities [N], colors [N, 3], viewmats
        [B, 4, 4], K [3, 3], and size: width and height.
    """
    from pallas_splat import workloads

    gaussians, camera = workloads.SCENES[case.scene](case.gaussians, case.pixels)
    viewmat = np.asarray(camera.viewmat)
    depth = float(np.mean(np.asarray(gaussians.means) @ viewmat[2, :3] + viewmat[2, 3]))
    names = ("means", "quats", "scales", "opacities", "colors")
    named = {name: getattr(gaussians, name) for name in names}
    named["viewmats"] = np.stack([_turned(viewmat, depth, _ORBIT * i) for i in range(case.batch)])
    named["K"] = camera.K
    inputs = {name: np.asarray(array, np.float32) for name, array in named.items()}
    return {**inputs, "size": np.array([camera.width, camera.height])}


def save(case: Case, path: pathlib.Path) -> None:
    """Write a case's inputs to an `.npz` file."""
    named: dict[str, Any] = dict(arrays(case))
    np.savez(path, **named)


def _turned(viewmat: np.ndarray, depth: float, angle: float) -> np.ndarray:
    turn = np.eye(4)
    turn[0, 0] = turn[2, 2] = np.cos(angle)
    turn[0, 2], turn[2, 0] = np.sin(angle), -np.sin(angle)
    turn[:3, 3] = (np.eye(3) - turn[:3, :3]) @ (0, 0, depth)
    return turn @ viewmat
