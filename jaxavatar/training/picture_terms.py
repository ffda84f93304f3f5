"""Losses on pictures that need fixed networks: the objective's L_img, L_perc, identity and eq. 9.

    judges = load_judges(config)
    step = make_sequence_step(..., picture_terms=make_picture_terms(config, judges))

Only terms that count are computed, and only their networks are loaded.
"""

import os

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar import losses
from jaxavatar.errors import InputError
from jaxavatar.losses import LossConfig
from jaxavatar.perception import dense, efficientnet, face_identity, vgg
from jaxavatar.perception.crops import crop
from jaxavatar.perception.dense import Detectors, Keypoints, Places
from jaxavatar.training.step import Batch, Metrics, PictureTerms


@flax.struct.dataclass
class Judges:
    """Fixed networks that look at pictures; None for those that are not asked.

    Attributes:
        perceptual: EfficientNet-Lite0.
        lpips: VGG16 with LPIPS's channel weights.
        identity: tells faces apart.
        detectors: of keypoints.
    """

    perceptual: efficientnet.Params | None = None
    lpips: vgg.Params | None = None
    identity: face_identity.Params | None = None
    detectors: Detectors | None = None


def load_judges(
    config: LossConfig,
    lpips: str | os.PathLike[str] | None = None,
    keypoints: bool = True,
    identity: str | os.PathLike[str] | None = None,
) -> Judges:
    """Load the networks of the terms that count.

    Args:
        config: weights.
        lpips: file that `jaxavatar weights import lpips` wrote.
        keypoints: detect them in pictures; else the exact ones serve "keypoint" alone.
        identity: folder that `face_identity.load` reads.

    Raises:
        InputError: a file is missing or damaged, or `lpips` or `identity` counts and is not
            named.
    """
    if config.active("lpips") and lpips is None:
        raise InputError(
            "the loss lpips needs imported weights; name a file of `jaxavatar weights import"
            " lpips`, or set its weight to zero"
        )
    if config.active("identity") and identity is None:
        raise InputError(
            "the loss identity needs weights whose licence is not stated; name the folder `model`"
            " of the npm package @vladmandic/face-api 1.7.15, or set its weight to zero"
        )
    identity = identity if config.active("identity") else None
    return Judges(
        perceptual=efficientnet.load() if config.active("perceptual") else None,
        lpips=vgg.load_lpips(lpips) if config.active("lpips") and lpips is not None else None,
        identity=None if identity is None else face_identity.load(identity),
        detectors=dense.load_detectors() if keypoints and config.active("keypoint") else None,
    )


def make_picture_terms(config: LossConfig, judges: Judges) -> PictureTerms:
    """Return "ssim", "perceptual", "lpips", "identity" and "keypoint" of rendered frames.

    Each counts if its weight is not zero and, but for "ssim", its network was loaded. Outside the
    clip's masks pictures count as black on both sides. "keypoint" needs `Batch.detected`.
    """

    def terms(
        images: Float[Array, "R H W 3"], clip: Batch, places: Places, key: jax.Array
    ) -> Metrics:
        assert clip.images is not None
        masks = 1.0 if clip.masks is None else clip.masks[..., None]
        ours, theirs = images * masks, clip.images * masks
        found: Metrics = {}
        if config.active("ssim"):
            found["ssim"] = 1.0 - losses.ssim(ours, theirs).mean()
        if judges.perceptual is not None:
            found["perceptual"] = losses.perceptual(judges.perceptual, ours, theirs)
        if judges.lpips is not None:
            found["lpips"] = losses.lpips(judges.lpips, ours, theirs).mean()
        if judges.identity is not None:
            found["identity"] = losses.identity(
                judges.identity, _faces(ours, places), _faces(theirs, places)
            )
        if judges.detectors is not None and clip.detected is not None:
            seen = dense.detect(judges.detectors, images, places)
            found["keypoint"] = aligned(config, seen, clip.detected)
        return found

    return terms


def _faces(images: Float[Array, "R H W 3"], places: Places) -> Float[Array, "R S S 3"]:
    return jax.vmap(lambda image, place: crop(image, place, face_identity.SIZE))(
        images, places.face
    )


def aligned(config: LossConfig, ours: Keypoints, theirs: Keypoints) -> Float[Array, ""]:
    """Return eq. 9 of detected keypoints; each counts as much as both detections are sure."""
    return losses.keypoint_distance(
        ours.points,
        theirs.points,
        jax.lax.stop_gradient(ours.weights) * theirs.weights,
        jnp.asarray(dense.IS_HAND),
        config.hand,
        config.keypoint_width,
        config.keypoint_penalty,
    )
