"""Personal training: a video teacher improves one person's driver and avatar (paper, sec. 3.3).

    tutor = Tutor(VideoDiTTeacher(teacher_config), teacher_params, side=64, stretch=8)
    student = make_student(driver, params, avatar)
    state = improve(config, student, tutor, speeches, folder)
    numbers = examine(config, student, state.params, tutor, held_out).numbers

The teacher watches the face through a camera that goes with the head (`head_view`), so that what
it corrects is what the speech decides. The head itself moves as it did before the training; only
the face's rows of the Gaussian head, and the avatar's own Gaussians, are trained.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxavatar.deformer import Driver
from jaxavatar.teachers.protocol import VideoTeacher
from jaxavatar.training.examining import Examination, examine, true_opening
from jaxavatar.training.learned import personal_optimiser, untouched
from jaxavatar.training.lessons import PersonalConfig, lesson
from jaxavatar.training.loop import LoopConfig, train
from jaxavatar.training.sequence import local_score, make_sequence_step
from jaxavatar.training.sharding import compile_step
from jaxavatar.training.state import TrainState
from jaxavatar.training.watching import FRONT, Spoken, Student, Tutor, View, make_student, watch

__all__ = [
    "FRONT",
    "Examination",
    "PersonalConfig",
    "Spoken",
    "Student",
    "Tutor",
    "View",
    "examine",
    "improve",
    "lesson",
    "make_student",
    "true_opening",
    "watch",
]

_ON_PICTURES = ("image", "ssim", "perceptual", "lpips", "identity")


def improve(
    config: PersonalConfig,
    student: Student,
    tutor: Tutor,
    speeches: list[Spoken],
    folder: str | os.PathLike[str],
) -> TrainState:
    """Train, going on from the newest checkpoint in the folder; `state.params` is a `Learned`.

    Args:
        config: how.
        student: who learns; also its start.
        tutor: who teaches.
        speeches: each at least as long as a clip, `config.stretches * tutor.stretch` frames.
        folder: of checkpoints, `metrics.jsonl` and `curve.png`, see `loop`.

    Raises:
        DivergedError: the loss is not finite.
        InputError: the folder cannot be written, or its checkpoint is of another training.
        ValueError: a loss on pictures counts, of which this training compares none.
    """
    if unused := [name for name in _ON_PICTURES if config.loss.active(name)]:
        raise ValueError(f"no pictures are compared here; set the weights of {unused} to zero")
    # Flax's modules are hashable, which their type hides.
    compiled, optimiser = _step(config, student.driver, tutor.teacher)  # pyright: ignore[reportArgumentType]
    learned = jax.tree.map(jnp.copy, untouched(student.params, student.avatar))
    start = TrainState(learned, optimiser.init(learned), jnp.zeros((), jnp.int32))
    return train(
        LoopConfig(config.steps, config.report_every, config.save_every),
        lambda state, batch: compiled(state, batch, tutor.params),
        # Bound to a device, as a restored state is: else the step is compiled anew for that one.
        jax.device_put(start, jax.devices()[0]),
        lambda number: lesson(config, student, tutor, speeches, number),
        folder,
    )


@functools.lru_cache(maxsize=1)
def _step(
    config: PersonalConfig, driver: Driver, teacher: VideoTeacher | None
) -> tuple[Callable[..., Any], optax.GradientTransformation]:
    """Return the compiled step and its optimiser; the same again for the same arguments."""
    optimiser = personal_optimiser(config.sequence.rates)
    score = None if teacher is None else local_score(teacher, config.score)
    return compile_step(make_sequence_step(config.sequence, driver, optimiser, score)), optimiser
