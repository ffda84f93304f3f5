"""Where every method begins: the body fitted to the photo, Gaussians placed on it and painted."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image
from scipy import ndimage

from jaxavatar.body import JOINTS, LEFT_HAND, RIGHT_HAND, BodyModel, load_template
from jaxavatar.reconstruction.assemble import assemble, carry_home
from jaxavatar.reconstruction.fit import BodyFit, fit_body
from jaxavatar.reconstruction.optimise import Target
from jaxavatar.reconstruction.paint import bleed_free, paint
from jaxavatar.reconstruction.place import Budget, Placement, place, place_at
from jaxavatar.reconstruction.query import Queries
from jaxavatar.reconstruction.raster import rasterise
from jaxavatar.reconstruction.surface import Surface, build_surface
from jaxavatar.structs import Avatar, Findings

WORK_SIDE = 512
"""Longer side of the picture the Gaussians are fitted to, pixels."""


@dataclasses.dataclass(frozen=True)
class Start:
    """A photo taken apart.

    Attributes:
        model: the body.
        fit: shape, pose and camera.
        surface: the person's mesh.
        placement: where the Gaussians are.
        avatar: of the placed and painted Gaussians.
        target: the photo to compare with.
    """

    model: BodyModel
    fit: BodyFit
    surface: Surface
    placement: Placement
    avatar: Avatar
    target: Target


def start(
    image: Float[np.ndarray, "H W 3"], findings: Findings, where: Budget | Queries, seed: int
) -> Start:
    """Fit the body, place Gaussians on photo and body, and paint them.

    Args:
        image: the photo, [0, 1].
        findings: from `perception.perceive` on this photo.
        where: how many Gaussians to place, or the points of the template that become Gaussians.
        seed: for the choice of points.
    """
    model = load_template()
    size = (image.shape[0], image.shape[1])
    fit = fit_body(model, findings, size)
    surface = build_surface(model, fit, findings.face)
    photo, matte, scale = _resize(image, findings.matte)
    K = np.asarray(fit.K, float) * [[scale], [scale], [1.0]]
    matte = np.maximum(matte, _hands(model, surface, K, matte.shape, findings))
    if isinstance(where, Budget):
        placement = place(model, surface, K, matte, where, np.random.default_rng(seed))
    else:
        spots = where.corners, where.mix, where.area
        placement = place_at(model, surface, K, matte, *spots)
    canonical, _, _ = carry_home(model, surface, placement)
    colors = paint(model, placement, canonical, photo, matte)
    avatar, face = assemble(model, fit, surface, placement, colors, size)
    # Where the matte is soft the photo holds background: the target there is the person's colour.
    clean = np.where((matte > 0.95)[..., None], photo, bleed_free(photo, matte))
    target = Target(
        photo=jnp.asarray(clean, jnp.float32),
        matte=jnp.asarray(matte, jnp.float32),
        K=jnp.asarray(K, jnp.float32),
        face=jnp.asarray(face, jnp.float32),
        seen=jnp.asarray(placement.seen),
    )
    return Start(model, fit, surface, placement, avatar, target)


def _hands(
    model: BodyModel,
    surface: Surface,
    K: np.ndarray,
    size: tuple[int, int],
    findings: Findings,
) -> Float[np.ndarray, "H W"]:
    """Return where the fitted hands are: mattes lose fingers, detected hands do not."""
    vertices, faces = np.asarray(surface.posed, float), np.asarray(model.faces)
    pixels = vertices[:, :2] / np.maximum(vertices[:, 2:], 1e-3) * [K[0, 0], K[1, 1]] + K[:2, 2]
    mask = np.zeros(size)
    for side, fingers, found in (
        ("left", LEFT_HAND, findings.left_hand),
        ("right", RIGHT_HAND, findings.right_hand),
    ):
        if found is None:
            continue
        joints = [JOINTS.index(f"{side}_wrist"), *range(fingers.start, fingers.stop)]
        on_hand = np.asarray(model.weights)[:, joints].sum(1) > 0.9
        owner, _ = rasterise(pixels, vertices[:, 2], faces[on_hand[faces].all(1)], size)
        mask[owner >= 0] = 1.0
    return ndimage.gaussian_filter(mask, 0.7)


def _resize(image: np.ndarray, matte: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Shrink photo and matte to `WORK_SIDE` (never enlarge); return the scale too."""
    height, width = matte.shape
    scale = min(1.0, WORK_SIDE / max(height, width))
    size = (round(width * scale), round(height * scale))

    def channel(c: np.ndarray) -> np.ndarray:
        return np.asarray(
            Image.fromarray(c.astype(np.float32)).resize(
                size, Image.Resampling.LANCZOS, reducing_gap=3
            )
        )

    photo = np.stack([channel(image[..., c]) for c in range(3)], -1).clip(0, 1)
    return photo, channel(matte).clip(0, 1), scale
