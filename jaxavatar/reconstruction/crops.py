"""Cut out of a photo what the transformer's encoders look at: person, head, hands."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from jaxavatar.reconstruction.transformer.config import TransformerConfig
from jaxavatar.reconstruction.transformer.model import Crops
from jaxavatar.reconstruction.transformer.photo_crop import ASPECT, crop_person, resize_area
from jaxavatar.reconstruction.transformer.resample import to_square
from jaxavatar.structs import Findings

# Side of the square around the face landmarks, over the root of their box's area. LHM takes 1.65
# of a head detector's box, which reaches from the chin to the top of the hair.
_HEAD_SIDE = 2.0
_HAND_SIDE = 1.6  # the same for hands, over the longer side of the box
_HEAD_FROM_POSE = 3.5  # over the distance of the ears, where no face was found
_EARS = (7, 8)  # BlazePose


def make_crops(
    config: TransformerConfig, image: Float[np.ndarray, "H W 3"], findings: Findings
) -> Crops:
    """Return the crops of one photo, with a leading axis of length 1.

    Args:
        config: sizes of the encoders' inputs.
        image: the photo, [0, 1].
        findings: from `perception.perceive` on this photo.

    Raises:
        ValueError: the matte is empty.
    """
    hands, seen = _hands(config, image, findings)
    return Crops(
        body=jnp.asarray(_body(config, image, findings)[None]),
        head=jnp.asarray(_head(config, image, findings)[None]),
        hands=jnp.asarray(hands[None]) if config.hand_branch else None,
        hands_seen=jnp.asarray(seen[None]) if config.hand_branch else None,
    )


def _body(config: TransformerConfig, image: np.ndarray, findings: Findings) -> np.ndarray:
    height, width = config.body.size
    pixels = np.round(255 * image).astype(np.uint8)
    if height == width:  # LHM's: 5 : 3, made square with white
        picture, _ = crop_person(pixels, findings.matte, height)
        return np.asarray(to_square(jnp.asarray(picture)[None], height))[0]
    assert abs(height / width - ASPECT) < 0.01, "the body encoder's input is square or 5 : 3"
    picture, _ = crop_person(pixels, findings.matte, 2 * width, 4 * width)
    return resize_area(picture, height, width).astype(np.float32)


def _head(config: TransformerConfig, image: np.ndarray, findings: Findings) -> np.ndarray:
    if findings.face is not None:
        low, high = findings.face.points.min(0), findings.face.points.max(0)
        side = _HEAD_SIDE * float(np.sqrt(np.prod(high - low)))
        centre = (low + high) / 2 - [0, 0.1 * side]  # room for the hair
    else:
        ears = findings.pose.points[list(_EARS)]
        side = _HEAD_FROM_POSE * max(float(np.linalg.norm(ears[0] - ears[1])), 8.0)
        centre = ears.mean(0)
    return _square(image, centre, side, (config.head.size, config.head.size))


def _hands(
    config: TransformerConfig, image: np.ndarray, findings: Findings
) -> tuple[Float[np.ndarray, "2 h w 3"], Bool[np.ndarray, " 2"]]:
    """Return the left hand, mirrored, and the right one; white where a hand was not found."""
    crops = np.ones((2, *config.hand.size, 3), np.float32)
    found = (findings.left_hand, findings.right_hand)
    for k, hand in enumerate(found):
        if hand is not None:
            low, high = hand.points.min(0), hand.points.max(0)
            side = _HAND_SIDE * float(max(high - low))
            crop = _square(image, (low + high) / 2, side, config.hand.size)
            crops[k] = crop[:, ::-1] if k == 0 else crop
    return crops, np.array([hand is not None for hand in found])


def _square(
    image: np.ndarray, centre: np.ndarray, side: float, size: tuple[int, int]
) -> Float[np.ndarray, "h w 3"]:
    """Cut a box of height `side` and of the size's aspect; white beyond the photo."""
    height, width = size
    half = np.array([side * width / height, side]) / 2
    left, top = np.floor(centre - half).astype(int)
    right, bottom = np.maximum(np.ceil(centre + half).astype(int), [left + 1, top + 1])
    limits = np.array([[top, bottom, image.shape[0]], [left, right, image.shape[1]]])
    margins = [(max(-a, 0), max(b - n, 0)) for a, b, n in limits]
    wide = np.pad(image, [*margins, (0, 0)], constant_values=1.0)
    top, left = (a + m for (a, _, _), (m, _) in zip(limits, margins, strict=True))
    cut = wide[top : top + limits[0, 1] - limits[0, 0], left : left + limits[1, 1] - limits[1, 0]]
    picture = Image.fromarray(np.round(255 * cut.clip(0, 1)).astype(np.uint8))
    resized = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized, np.float32) / 255
