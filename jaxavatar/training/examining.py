"""What a teacher thinks of held-out speech, before and after personal training."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar import animate
from jaxavatar.deformer import Driver
from jaxavatar.losses.score import frame_gradient
from jaxavatar.metrics import lips
from jaxavatar.structs import Avatar, BodyPose
from jaxavatar.teachers import procedural
from jaxavatar.teachers.protocol import VideoTeacher
from jaxavatar.training.frames import show
from jaxavatar.training.learned import Learned, retouched
from jaxavatar.training.lessons import PersonalConfig
from jaxavatar.training.sequence import Sequence, stretch_score
from jaxavatar.training.step import hear
from jaxavatar.training.watching import FRONT, Spoken, Student, Tutor, watch

LEVELS = (0.4, 0.6, 0.8)
"""Noise levels at which a teacher is asked what it thinks of held-out clips."""


@dataclasses.dataclass(frozen=True)
class Examination:
    """What a teacher thinks of held-out speech.

    Attributes:
        numbers: "score", half the mean square of what the teacher would change, at `LEVELS`;
            "score_wrong_speech", the same when it is told other speech than the face hears;
            "opening_mm", the deviation of the mouth's opening; "correlation", of the opening with
            the true one, where that is known.
        openings: of the mouth beyond the rest pose's, all frames, metres.
        frames: of the first clip.
    """

    numbers: dict[str, float]
    openings: Float[np.ndarray, " F"]
    frames: Float[np.ndarray, "T H W 3"]


def examine(
    config: PersonalConfig,
    student: Student,
    learned: Learned,
    tutor: Tutor,
    held_out: list[Spoken],
    clips: int = 6,
) -> Examination:
    """Ask the teacher, with fixed noise, about clips of held-out speech.

    Args:
        config: how long clips are.
        student: where it started, which decides the cameras.
        learned: what is examined: `untouched(...)`, or what training made of it.
        tutor: who is asked.
        held_out: each at least as long as a clip.
        clips: how many, spread evenly.
    """
    count = config.stretches * tutor.stretch
    places = [
        (speech, begin) for speech in held_out for begin in range(0, len(speech) - count + 1, count)
    ]
    chosen = np.unique(np.linspace(0, len(places) - 1, clips).round().astype(int))
    places = [places[number] for number in chosen]
    watched = [watch(student, tutor, speech, begin, count, FRONT) for speech, begin in places]
    values, openings, truths, first = [], [], [], None
    for number, ((speech, begin), item) in enumerate(zip(places, watched, strict=True)):
        assert item.watched is not None
        other = watched[(number + 1) % len(watched)].watched
        assert other is not None
        frames, opening, scores = _shown(
            student.driver, tutor.teacher, config, learned, item, other.condition, tutor.params
        )
        first = np.asarray(frames) if first is None else first
        values.append(np.asarray(scores))
        openings.append(np.asarray(opening))
        if speech.motion is not None:
            truths.append(true_opening(student.avatar, speech.part(begin, begin + count).motion))
    assert first is not None
    moved = np.concatenate(openings)
    names = () if tutor.teacher is None else ("score", "score_wrong_speech")
    numbers: dict[str, float] = dict(zip(names, np.mean(values, 0).tolist(), strict=True))
    numbers["opening_mm"] = float(1000 * moved.std())
    if truths and len(truths) == len(openings):
        numbers["correlation"] = float(np.corrcoef(moved, np.concatenate(truths))[0, 1])
    return Examination(numbers, moved, first)


def true_opening(avatar: Avatar, motion: BodyPose | None) -> Float[np.ndarray, " T"]:
    """Return how far a known motion opens the mouth beyond the rest pose, metres."""
    assert motion is not None
    marks = procedural.landmarks(avatar, jax.tree.map(jnp.asarray, motion))
    return lips.opening(np.asarray(marks)) - float(_rest_gap(avatar))


def _rest_gap(avatar: Avatar) -> Float[Array, ""]:
    lip = avatar.means[avatar.landmarks[np.array([lips.UPPER, lips.LOWER])]]
    return jnp.linalg.norm(lip[0] - lip[1])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _shown(
    driver: Driver,
    teacher: VideoTeacher | None,
    config: PersonalConfig,
    learned: Learned,
    item: Sequence,
    wrong: Any,
    params: Any,
) -> tuple[Float[Array, "T H W 3"], Float[Array, " T"], Float[Array, " K"]]:
    """Return the frames that the teacher sees, the mouth's opening, and its right and wrong score.

    Right is what it is told itself, wrong the condition `wrong`; the procedural teacher gives no
    scores.
    """
    watched = item.watched
    assert watched is not None
    avatar = retouched(item.clip.avatar, learned.avatar)
    code, motion = hear(driver, learned.driver, item.clip)
    frames, _ = show(
        *(driver, learned.driver, avatar, code, motion, watched.camera, watched.background),
        item.clip.neighbours,
    )
    index = avatar.landmarks[np.array([lips.UPPER, lips.LOWER])]
    points, _ = animate.deform_points(driver, learned.driver, avatar, code, motion, index)
    opening = jnp.linalg.norm(points[:, 0] - points[:, 1], axis=-1) - _rest_gap(item.clip.avatar)

    if teacher is None:
        return frames, opening, jnp.zeros(0)

    def score(condition: Any, level: float) -> Float[Array, ""]:
        asked = dataclasses.replace(
            config.score,
            lowest=level,
            highest=level,
            highest_end=level,
            guidance=(1.0,) * len(teacher.spec.drops),
            normalise=False,
        )

        def bound(condition: Any) -> Any:
            return frame_gradient(teacher, params, condition, asked)

        return stretch_score(bound, frames, condition, jax.random.key(0))

    scores = [
        jnp.mean(jnp.stack([score(condition, level) for level in LEVELS]))
        for condition in (watched.condition, wrong)
    ]
    return frames, opening, jnp.stack(scores)
