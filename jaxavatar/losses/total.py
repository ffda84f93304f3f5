"""The weighted sum of all losses (paper, sec. 3.3)."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.losses.penalty import Penalty


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Every lambda of the objective; the paper gives no values. A zero switches a term off.

    Attributes:
        image: of the L1 distance of pictures (lambda_img).
        ssim: of one minus their structural similarity.
        perceptual: of the distance of a fixed visual encoder's features (lambda_perc).
        lpips: of the learned perceptual distance, which needs imported weights.
        identity: of one minus the cosine of the faces' embeddings.
        keypoint: of eq. 9, per pixel of distance (lambda_kpt).
        shift: of the canonical displacement of keypoints from the teacher's, per millimetre; only
            for teachers that know their motion.
        turn: of the joints' rotations from the teacher's, per radian; likewise.
        score: of video score distillation, eq. 8 (lambda_vsd).
        arap: of the rigidity of the deformation (lambda_reg).
        temporal: of jumps of trajectories, `losses.jumps`.
        spectral: of the share of their energy above `cutoff`.
        spectrum: of the distance of their spectra from the teacher's.
        position: of the mean squared displacement, per square centimetre.
        stretch: of the mean squared entry of dS.
        appearance: of the mean squared change of opacity and colour.
        hand: lambda_hand of eq. 9, relative to the face's 1.
        keypoint_penalty: rho of eq. 9.
        keypoint_width: of the penalty, pixels.
        jump: second difference of a trajectory that is free, in its unit per frame squared.
        cutoff: frequency up to which motion is taken for articulation, Hz.
    """

    image: float = 1.0
    ssim: float = 0.0
    perceptual: float = 0.0
    lpips: float = 0.0
    identity: float = 0.0
    keypoint: float = 0.1
    shift: float = 0.0
    turn: float = 0.0
    score: float = 0.0
    arap: float = 0.1
    temporal: float = 0.0
    spectral: float = 0.0
    spectrum: float = 0.0
    position: float = 0.01
    stretch: float = 0.1
    appearance: float = 0.1
    hand: float = 1.0
    keypoint_penalty: Penalty = "charbonnier"
    keypoint_width: float = 1.0
    jump: float = 0.0
    cutoff: float = 7.0

    def active(self, name: str) -> bool:
        """Say whether a term counts, so that one that does not need not be computed.

        Raises:
            ValueError: no weight has this name.
        """
        return self.weight(name) != 0.0

    def weight(self, name: str) -> float:
        """Return the lambda of a term.

        Raises:
            ValueError: no weight has this name.
        """
        known = [field.name for field in dataclasses.fields(self)]
        known = [field for field in known if field not in _WEIGHTS_OF_NO_TERM]
        if name not in known:
            raise ValueError(f"no weight for the loss {name!r}; known are {', '.join(known)}")
        return getattr(self, name)


_WEIGHTS_OF_NO_TERM = ("hand", "keypoint_penalty", "keypoint_width", "jump", "cutoff")


def total(
    terms: Mapping[str, Float[Array, ""]], config: LossConfig
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Sum the terms by the weights that bear their names.

    Args:
        terms: unweighted scalars, named after fields of the config.
        config: their weights. A term whose weight is zero is reported, and adds nothing even if
            it is not finite.

    Returns:
        The loss, and every unweighted term with the loss as "loss".

    Raises:
        ValueError: a term has no weight.
    """
    weighted = [config.weight(name) * term for name, term in terms.items() if config.active(name)]
    loss = jnp.sum(jnp.stack(weighted)) if weighted else jnp.zeros(())
    return loss, {**terms, "loss": loss}
