"""The video teacher that ships with the package: synthetic people and voices, two CPU cores."""

import dataclasses

from jaxavatar.data.talking_heads import TalkConfig
from jaxavatar.teachers.video_dit import VideoDiTConfig
from jaxavatar.training.ears import EarsConfig
from jaxavatar.training.loop import LoopConfig
from jaxavatar.training.state import OptimiserConfig
from jaxavatar.training.video_dit import FlowConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a training run depends on.

    Attributes:
        train_clips: seeds of the sentences to train on.
        held_out_clips: seeds of the sentences to measure on.
        train_voices: who says the former.
        held_out_voices: who says the latter.
        train_people: seeds of `data.people.random_actor`.
        held_out_people: the same, to measure on.
        gaussians: of each person, on face, hands and body.
        seed: of initial parameters and batches.
    """

    train_clips: range = range(600)
    held_out_clips: range = range(1_000_000, 1_000_024)
    train_voices: tuple[str, ...] = ("slt", "awb")
    held_out_voices: tuple[str, ...] = ("rms",)
    train_people: range = range(48)
    held_out_people: range = range(1000, 1004)
    gaussians: tuple[int, int, int] = (6000, 400, 1500)
    seed: int = 0
    model: VideoDiTConfig = dataclasses.field(default_factory=VideoDiTConfig)
    talk: TalkConfig = dataclasses.field(default_factory=TalkConfig)
    ears: EarsConfig = dataclasses.field(default_factory=EarsConfig)
    flow: FlowConfig = dataclasses.field(default_factory=FlowConfig)
    optimiser: OptimiserConfig = dataclasses.field(
        default_factory=lambda: OptimiserConfig(learning_rate=1.5e-3, steps=1600, weight_decay=0.01)
    )
    loop: LoopConfig = dataclasses.field(
        default_factory=lambda: LoopConfig(steps=1600, save_every=200)
    )


def get_config(further: bool = False) -> Config:
    """Return the configuration of `python -m experiments.train_teacher`, or of its `--start`.

    Trained further, the teacher starts from parameters instead of at random; the learning rate
    rises and falls once more, over batches and noise that it has not seen.
    """
    config = Config()
    if not further:
        return config
    return dataclasses.replace(
        config,
        seed=10,
        flow=dataclasses.replace(config.flow, seed=10),
        optimiser=OptimiserConfig(learning_rate=1e-3, warmup=30, steps=480, weight_decay=0.01),
        loop=dataclasses.replace(config.loop, steps=480, save_every=60),
    )
