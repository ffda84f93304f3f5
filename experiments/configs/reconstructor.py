"""The transformer that ships with the package: portraits of synthetic people, on two CPU cores."""

import dataclasses

from jaxavatar.reconstruction.transformer import CONFIGS, TransformerConfig
from jaxavatar.training.loop import LoopConfig
from jaxavatar.training.reconstructor import ReconstructionLoss
from jaxavatar.training.state import OptimiserConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a training run depends on, besides the photos.

    Attributes:
        model: sizes of the transformer.
        train: seeds of `data.portraits.random_portrait` to train on.
        held_out: seeds to measure on.
        batch: samples of a step.
        photo_share: share of real photos in a batch, where there are any.
        seed: of initial parameters and batches.
    """

    model: TransformerConfig = CONFIGS["tiny"]
    train: range = range(340)
    held_out: range = range(1_000_000, 1_000_020)
    batch: int = 8
    photo_share: float = 0.1
    seed: int = 0
    loss: ReconstructionLoss = dataclasses.field(default_factory=ReconstructionLoss)
    optimiser: OptimiserConfig = dataclasses.field(
        default_factory=lambda: OptimiserConfig(learning_rate=1e-3, steps=650, weight_decay=0.01)
    )
    loop: LoopConfig = dataclasses.field(
        default_factory=lambda: LoopConfig(steps=650, report_every=10, save_every=100)
    )


def get_config() -> Config:
    """Return the configuration of `python -m experiments.train_reconstructor`."""
    return Config()
