"""Batches of personal training, one clip a step, and what decides them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxavatar import animate
from jaxavatar.losses import LossConfig
from jaxavatar.losses.score import ScoreConfig
from jaxavatar.structs import Avatar
from jaxavatar.training.learned import Rates
from jaxavatar.training.sequence import Sequence, SequenceConfig
from jaxavatar.training.step import Batch, StepConfig
from jaxavatar.training.watching import Spoken, Student, Tutor, View, watch

_POINTS = 256  # of the face, that the procedural teacher names in a step


@dataclasses.dataclass(frozen=True)
class PersonalConfig:
    """How a person's training goes.

    Attributes:
        steps: of the training.
        seed: of everything random.
        stretches: S; a step shows the teacher a clip of S of its stretches.
        yaw: largest angle of the camera to either side, radians.
        pitch: the same up and down.
        score: eq. 8.
        loss: weights.
        driver: learning rate of the face's rows of the Gaussian head.
        means: of the avatar's centres, `Rates.means`.
        colors: of its colours.
        report_every: steps.
        save_every: steps between checkpoints.
    """

    steps: int = 200
    seed: int = 0
    stretches: int = 2
    yaw: float = 0.3
    pitch: float = 0.12
    score: ScoreConfig = dataclasses.field(default_factory=ScoreConfig)
    loss: LossConfig = dataclasses.field(
        default_factory=lambda: LossConfig(image=0.0, score=100.0, shift=1.0)
    )
    driver: float = 5e-4
    means: float = 3e-3
    colors: float = 0.0
    report_every: int = 5
    save_every: int = 20

    @property
    def sequence(self) -> SequenceConfig:
        """What a step does."""
        return SequenceConfig(
            step=StepConfig(loss=self.loss, seed=self.seed, rematerialise=True),
            rates=Rates(
                driver=self.driver,
                parts=("gaussian",),
                regions=("face",),
                means=self.means,
                colors=self.colors,
                warmup=min(10, self.steps // 2),
                steps=self.steps,
            ),
            score_moves="everything" if self.colors else "motion",
            steps=self.steps,
        )


def lesson(
    config: PersonalConfig, student: Student, tutor: Tutor, speeches: list[Spoken], number: int
) -> Sequence:
    """Make the batch of a step, one clip: a pure function of the step's number."""
    rng = np.random.default_rng([config.seed, number])
    count = config.stretches * tutor.stretch
    chances = np.array([len(speech) - count + 1.0 for speech in speeches])
    speech = speeches[rng.choice(len(speeches), p=chances / chances.sum())]
    view = View(
        yaw=jnp.asarray(rng.uniform(-config.yaw, config.yaw), jnp.float32),
        pitch=jnp.asarray(rng.uniform(-config.pitch, config.pitch), jnp.float32),
        height=jnp.asarray(rng.uniform(0.14, 0.17), jnp.float32),
        background=jnp.asarray(rng.random(3), jnp.float32),
    )
    begin = int(rng.integers(len(speech) - count + 1))
    shown = watch(student, tutor, speech, begin, count, view)
    if tutor.teacher is None:
        shown = _told_exactly(student.avatar, shown.clip, speech.part(begin, begin + count), rng)
    return jax.tree.map(lambda leaf: leaf[None], shown)


def _told_exactly(
    avatar: Avatar, clip: Batch, speech: Spoken, rng: np.random.Generator
) -> Sequence:
    """Have the procedural teacher say where some Gaussians of the face belong.

    Raises:
        ValueError: the true motion is not known.
    """
    if speech.motion is None:
        raise ValueError("the procedural teacher needs speech whose motion is known")
    points = rng.choice(avatar.n_face, min(_POINTS, avatar.n_face), replace=False)
    index = jnp.asarray(np.sort(points), jnp.int32)
    shifts = animate.face_shift(avatar, jnp.asarray(speech.motion.expression), index)
    weights = jnp.ones(shifts.shape[:2])
    return Sequence(
        dataclasses.replace(clip, keypoint_index=index, keypoint_weights=weights, shifts=shifts)
    )
