"""Personal training: a video teacher improves one person's driver and avatar (paper, sec. 3.3).

    tutor = Tutor(VideoDiTTeacher(teacher_config), teacher_params, side=64, stretch=8)
    student = make_student(driver, params, avatar)
    state = improve(config, student, tutor, speeches, folder)
    numbers = examine(config, student, state.params, tutor, held_out).numbers

The teacher watches the face through a camera that goes with the head (`head_view`), so that what
it corrects is what the speech decides. The head itself moves as it did before the training; only
the face's rows of the Gaussian head, and the avatar's own Gaussians, are trained.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from pallas_splat import Camera

from jaxavatar import animate, head_view, losses
from jaxavatar.deformer import Driver, initial_state, whole
from jaxavatar.losses import LossConfig
from jaxavatar.losses.score import ScoreConfig, frame_gradient
from jaxavatar.metrics import lips
from jaxavatar.structs import Avatar, BodyPose, Drive
from jaxavatar.teachers import procedural
from jaxavatar.teachers.protocol import Told, VideoTeacher
from jaxavatar.training.frames import show
from jaxavatar.training.learned import Learned, Rates, personal_optimiser, retouched, untouched
from jaxavatar.training.loop import LoopConfig, train
from jaxavatar.training.sequence import (
    Sequence,
    SequenceConfig,
    Watched,
    local_score,
    make_sequence_step,
    stretch_score,
)
from jaxavatar.training.sharding import compile_step
from jaxavatar.training.state import TrainState
from jaxavatar.training.step import Batch, StepConfig, hear

LEVELS = (0.4, 0.6, 0.8)
"""Noise levels at which a teacher is asked what it thinks of held-out clips."""

_NEIGHBOURS = 6
_POINTS = 256  # of the face, that the procedural teacher names in a step


@dataclasses.dataclass(frozen=True)
class Tutor:
    """A video teacher and how it watches.

    Attributes:
        teacher: any; None stands for the procedural one, which is no video teacher: it says where
            the face's Gaussians belong, for speech whose true motion is known.
        params: its parameters.
        side: of the frames it sees, pixels.
        stretch: frames it sees at once.
    """

    teacher: VideoTeacher | None
    params: Any
    side: int
    stretch: int


@dataclasses.dataclass(frozen=True)
class Spoken:
    """A stretch of speech.

    Attributes:
        drive: T frames.
        motion: the true one, relative to the rest pose, where it is known.
    """

    drive: Drive
    motion: BodyPose | None = None

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.drive.audio)

    def part(self, begin: int, end: int) -> "Spoken":
        """Cut out some frames."""
        drive = dataclasses.replace(
            self.drive,
            audio=self.drive.audio[begin:end],
            segment=self.drive.segment[begin:end],
            time=self.drive.time[begin:end],
        )
        return Spoken(drive, jax.tree.map(lambda leaf: leaf[begin:end], self.motion))


@dataclasses.dataclass(frozen=True)
class Student:
    """Who learns: a network, its parameters, an avatar and the graph of its Gaussians."""

    driver: Driver
    params: animate.Params
    avatar: Avatar
    neighbours: Int[Array, "N k"]


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


@flax.struct.dataclass
class View:
    """Where the teacher watches from: arguments of `head_view.head_camera`, and what is behind."""

    yaw: Float[Array, ""]
    pitch: Float[Array, ""]
    height: Float[Array, ""]
    background: Float[Array, " 3"]


FRONT = View(jnp.array(0.1), jnp.array(0.0), jnp.array(head_view.HEIGHT), jnp.full(3, 0.6))
"""From where held-out clips are watched."""


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


def make_student(driver: Driver, params: animate.Params, avatar: Avatar) -> Student:
    """Connect the neighbours of an avatar."""
    graph = losses.neighbour_graph(np.asarray(avatar.means), _NEIGHBOURS)
    return Student(driver, params, avatar, jnp.asarray(graph))


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
    """
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


def watch(
    student: Student, tutor: Tutor, speech: Spoken, begin: int, count: int, view: View
) -> Sequence:
    """Put a camera before `count` frames of a speech, and tell the teacher what is said.

    The camera follows the head as the student moves it at the start of the training.
    """
    drive = speech.part(begin, begin + count).drive
    camera, cameras, reference = _set_up(
        student.driver, tutor.side, student.params, student.avatar, drive, view
    )
    condition: Any = jnp.zeros((count // tutor.stretch, 0))
    if tutor.teacher is not None:
        starts = begin + np.arange(0, count, tutor.stretch)
        context = tutor.teacher.spec.context
        index = starts[:, None] + np.arange(-context, tutor.stretch + context)
        exists = (index >= 0) & (index < len(speech))
        audio = np.asarray(speech.drive.audio)[index.clip(0, len(speech) - 1)] * exists[..., None]
        told = Told(
            audio=jnp.asarray(audio, jnp.float32),
            reference=jnp.broadcast_to(reference, (len(starts), *reference.shape)),
        )
        condition = tutor.teacher.condition(tutor.params, told)
    index = student.avatar.landmarks
    clip = Batch(
        avatar=student.avatar,
        drive=drive,
        camera=camera,
        background=view.background,
        motion=None,
        keypoint_index=index,
        keypoints=None,
        keypoint_weights=jnp.ones((count, len(index))),
        frames=jnp.arange(1),
        images=None,
        masks=None,
        neighbours=student.neighbours,
    )
    return Sequence(clip, Watched(cameras, view.background, condition))


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


@functools.partial(jax.jit, static_argnums=(0, 1))
def _set_up(
    driver: Driver, side: int, params: animate.Params, avatar: Avatar, drive: Drive, view: View
) -> tuple[Camera, Camera, Float[Array, "H W 3"]]:
    """Return the camera of the rest pose, those that follow the head, and the first's picture."""
    camera = head_view.head_camera(avatar, side, view.yaw, view.pitch, view.height)
    code = animate.encode(driver, params, avatar)
    window = whole(drive, driver.config.halo)
    motion, _ = animate.track(driver, params, code, window, initial_state(driver.config))
    still = jax.tree.map(lambda leaf: jnp.zeros_like(leaf)[None], avatar.rest)
    posed = animate.pose_avatar(avatar, still)
    reference = animate.render_frames(posed, camera, view.background).images[0]
    return camera, head_view.follow_head(avatar, camera, motion.transforms), reference


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
