"""The driver that ships with the package: synthetic people and voices, on two CPU cores."""

import dataclasses

from jaxavatar.deformer import DriverConfig
from jaxavatar.losses import LossConfig
from jaxavatar.training.batches import BatchConfig
from jaxavatar.training.loop import LoopConfig
from jaxavatar.training.state import OptimiserConfig
from jaxavatar.training.step import StepConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a training run depends on.

    Attributes:
        train_clips: seeds of the sentences to train on.
        held_out_clips: seeds of the sentences to measure on.
        train_voices: who says the former.
        held_out_voices: who says the latter.
        train_people: seeds of `data.people.random_person`.
        held_out_people: the same, to measure on.
        gaussians: of each person, on face, hands and body.
        seed: of initial parameters and batches.
    """

    train_clips: range = range(600)
    held_out_clips: range = range(1_000_000, 1_000_024)
    train_voices: tuple[str, ...] = ("slt", "awb")
    held_out_voices: tuple[str, ...] = ("rms",)
    train_people: range = range(12)
    held_out_people: range = range(1000, 1004)
    gaussians: tuple[int, int, int] = (1600, 400, 1000)
    seed: int = 0
    driver: DriverConfig = dataclasses.field(default_factory=DriverConfig)
    batch: BatchConfig = dataclasses.field(default_factory=BatchConfig)
    step: StepConfig = dataclasses.field(
        default_factory=lambda: StepConfig(
            loss=LossConfig(keypoint=0.2, keypoint_width=0.3, shift=1.0, turn=20.0)
        )
    )
    optimiser: OptimiserConfig = dataclasses.field(
        default_factory=lambda: OptimiserConfig(learning_rate=2e-3, steps=4000)
    )
    loop: LoopConfig = dataclasses.field(default_factory=lambda: LoopConfig(steps=4000))


def get_config() -> Config:
    """Return the configuration of `python -m experiments.train small`."""
    return Config()
