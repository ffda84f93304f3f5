"""The weighted sum of all losses (paper, sec. 3.3)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Every lambda of the objective; the paper gives no values. A zero switches a term off.

    Attributes:
        image: of the L1 distance of pictures (lambda_img).
        perceptual: of the distance of a fixed visual encoder's features (lambda_perc).
        keypoint: of eq. 9, per pixel of distance (lambda_kpt).
        shift: of the canonical displacement of keypoints from the teacher's, per millimetre; only
            for teachers that know their motion.
        turn: of the joints' rotations from the teacher's, per radian; likewise.
        score: of video score distillation, eq. 8 (lambda_vsd).
        arap: of the rigidity of the deformation (lambda_reg).
        position: of the mean squared displacement, per square centimetre.
        stretch: of the mean squared entry of dS.
        appearance: of the mean squared change of opacity and colour.
        hand: lambda_hand of eq. 9, relative to the face's 1.
        keypoint_width: of the Charbonnier penalty, pixels.
    """

    image: float = 1.0
    perceptual: float = 0.0
    keypoint: float = 0.1
    shift: float = 0.0
    turn: float = 0.0
    score: float = 0.0
    arap: float = 0.1
    position: float = 0.01
    stretch: float = 0.1
    appearance: float = 0.1
    hand: float = 1.0
    keypoint_width: float = 1.0


_WEIGHTS_OF_NO_TERM = ("hand", "keypoint_width")


def total(
    terms: dict[str, Float[Array, ""]], config: LossConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Sum the terms by the weights that bear their names.

    Args:
        terms: unweighted scalars, named after fields of the config.
        config: their weights.

    Returns:
        The loss, and every unweighted term with the loss as "loss".

    Raises:
        ValueError: a term has no weight.
    """
    known = {field.name for field in dataclasses.fields(config)} - set(_WEIGHTS_OF_NO_TERM)
    if unknown := set(terms) - known:
        raise ValueError(f"no weights for the losses {sorted(unknown)}; known are {sorted(known)}")
    loss = jnp.sum(jnp.stack([getattr(config, name) * term for name, term in terms.items()]))
    return loss, {**terms, "loss": loss}
