"""A driver whose mouth is deliberately wrong learns from eq. 8 alone to move it right.

Permuting the hidden units that the face's rows of the Gaussian head read keeps the size of the
motion and destroys its relation to speech. The teacher never names the true motion: it only says
how likely it finds the frames, given the sound. In the controls it hears other sentences.

The number of steps was chosen on other held-out sentences than those that are reported.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar import animate
from jaxavatar.data.people import random_actor
from jaxavatar.deformer import Driver, initial_state, load_params, whole
from jaxavatar.losses import LossConfig
from jaxavatar.losses.score import ScoreConfig
from jaxavatar.metrics import lips
from jaxavatar.structs import Avatar, Drive
from jaxavatar.training.learned import personal_optimiser, untouched
from jaxavatar.training.loop import LoopConfig, train
from jaxavatar.training.personal import (
    PersonalConfig,
    Spoken,
    Student,
    Tutor,
    lesson,
    make_student,
    true_opening,
)
from jaxavatar.training.sequence import Sequence, local_score, make_sequence_step
from jaxavatar.training.sharding import compile_step
from jaxavatar.training.state import TrainState

_ELSEWHERE = 1_000_000  # lessons further on are about other sounds
SCORE_ALONE = LossConfig(
    image=0.0, keypoint=0.0, score=100.0, arap=0.0, position=0.0, stretch=0.0, appearance=0.0
)


@dataclasses.dataclass(frozen=True)
class MouthConfig:
    """How the mouth is taught.

    Attributes:
        steps: of training.
        measure_every: steps.
        rate: of learning.
        guidance: of the teacher by the sound.
        person: seed of `random_actor`, nobody the teacher was trained on.
        gaussians: of that person, on face, hands and body.
        frames: of every held-out sentence to measure on.
        wrong: correlation with the true mouth that counts as wrong.
        controls: trainings whose teacher hears other sentences, each its own.
    """

    steps: int = 100
    measure_every: int = 20
    rate: float = 3e-3
    guidance: float = 2.0
    person: int = 1000
    gaussians: tuple[int, int, int] = (6000, 60, 340)
    frames: int = 96
    wrong: float = 0.1
    controls: int = 3

    @property
    def personal(self) -> PersonalConfig:
        """The same as a personal training."""
        return PersonalConfig(
            steps=self.steps,
            score=ScoreConfig(guidance=(self.guidance,)),
            loss=SCORE_ALONE,
            driver=self.rate,
            means=0.0,
        )


def run(
    config: MouthConfig,
    tutor: Tutor,
    speeches: list[Spoken],
    held_out: list[Spoken],
    folder: pathlib.Path,
) -> dict:
    """Break a mouth, teach it with right and with wrong sound, and compare.

    Args:
        config: how.
        tutor: the teacher.
        speeches: to learn from.
        held_out: to measure on.
        folder: of checkpoints and metrics.

    Returns:
        The report; "openings_mm" holds those of the first held-out sentence.
    """
    avatar = random_actor(config.person, config.gaussians)
    params, driver_config = load_params()
    driver = Driver(driver_config)
    judge = Judge.of(driver, avatar, held_out, config.frames)
    broken, seed = break_mouth(judge, params, config.wrong)
    student = make_student(driver, broken, avatar)
    report = {
        "config": dataclasses.asdict(config),
        "permutation": seed,
        "undamaged": judge.numbers(params),
        "before": judge.numbers(broken),
    }
    print(report, flush=True)
    openings = {"true": judge.truth[0], "before": judge.openings(broken)[0]}
    step = _compiled(config, driver, tutor)
    elsewhere = {"taught": 0} | {
        f"control {number}": number * _ELSEWHERE for number in range(1, config.controls + 1)
    }
    for name, offset in elsewhere.items():
        curve, state = _teach(
            config, student, tutor, step, speeches, judge, folder / name.replace(" ", "_"), offset
        )
        report[name] = {"after": judge.numbers(state.params.driver), "curve": curve}
        openings[name] = judge.openings(state.params.driver)[0]
    rounded = {name: (1000 * track).round(2).tolist() for name, track in openings.items()}
    return report | {"openings_mm": rounded}


@dataclasses.dataclass(frozen=True)
class Judge:
    """Compares mouths with the true one on held-out sentences.

    Attributes:
        driver: whose parameters are judged.
        avatar: who speaks.
        drives: C sentences, every leaf with a leading axis C.
        truth: opening of the mouth beyond the rest pose's, metres.
    """

    driver: Driver
    avatar: Avatar
    drives: Drive
    truth: Float[np.ndarray, "C T"]

    @staticmethod
    def of(driver: Driver, avatar: Avatar, held_out: list[Spoken], frames: int) -> "Judge":
        """Take the first frames of each sentence that has so many.

        Raises:
            ValueError: none has.
        """
        parts = [speech.part(0, frames) for speech in held_out if len(speech) >= frames]
        if not parts:
            raise ValueError(f"no sentence has {frames} frames")
        drives = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(part.drive for part in parts))
        truth = np.stack([true_opening(avatar, part.motion) for part in parts])
        return Judge(driver, avatar, drives, truth)

    def openings(self, params: animate.Params) -> Float[np.ndarray, "C T"]:
        """Return the mouth's opening beyond the rest pose's, metres."""
        return np.asarray(_openings(self.driver, params, self.avatar, self.drives))

    def numbers(self, params: animate.Params) -> dict[str, float]:
        """Return what `agreement` says about all sentences."""
        return agreement(self.openings(params), self.truth)


def agreement(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Compare openings of any shape: correlation, slope, and standard deviation in millimetres."""
    ours, theirs = (values.ravel() - values.mean() for values in (found, true))
    size = float(np.sqrt((ours @ ours) * (theirs @ theirs)))
    return {
        "correlation": round(float(ours @ theirs) / size, 3) if size else 0.0,
        "slope": round(float(ours @ theirs) / float(theirs @ theirs), 3),
        "deviation_mm": round(1000 * float(ours.std()), 3),
    }


def break_mouth(judge: Judge, params: animate.Params, wrong: float) -> tuple[animate.Params, int]:
    """Permute the face's hidden units until the mouth is wrong; return also the seed that did it.

    Raises:
        ValueError: none of 50 permutations is enough.
    """
    for seed in range(50):
        broken = permuted(params, seed)
        if abs(judge.numbers(broken)["correlation"]) <= wrong:
            return broken, seed
    raise ValueError(f"no permutation brings the correlation below {wrong}")


def permuted(params: animate.Params, seed: int) -> animate.Params:
    """Return a driver whose face reads the hidden units of its Gaussian head in another order."""
    out = params["params"]["gaussian"]["out"]
    order = np.random.default_rng(seed).permutation(out.shape[1])
    head = params["params"]["gaussian"] | {"out": out.at[0].set(out[0][order])}
    return {**params, "params": params["params"] | {"gaussian": head}}


def misheard(right: Sequence, other: Sequence) -> Sequence:
    """Let the teacher of one lesson hear the sound of another."""
    assert right.watched is not None
    assert other.watched is not None
    condition = dataclasses.replace(right.watched.condition, audio=other.watched.condition.audio)
    return dataclasses.replace(
        right, watched=dataclasses.replace(right.watched, condition=condition)
    )


def _compiled(config: MouthConfig, driver: Driver, tutor: Tutor):
    assert tutor.teacher is not None
    sequence = config.personal.sequence
    score = local_score(tutor.teacher, config.personal.score)
    made = make_sequence_step(sequence, driver, personal_optimiser(sequence.rates), score)
    compiled = compile_step(made)
    return lambda state, batch: compiled(state, batch, tutor.params)


def _teach(
    config: MouthConfig,
    student: Student,
    tutor: Tutor,
    step,
    speeches: list[Spoken],
    judge: Judge,
    folder: pathlib.Path,
    elsewhere: int,
) -> tuple[list[list[float]], TrainState]:
    """Train; return pairs of step and held-out correlation, and the last state.

    The teacher hears the sound of the lesson `elsewhere` steps further on.
    """
    personal = config.personal

    def batch_of(number: int) -> Sequence:
        right = lesson(personal, student, tutor, speeches, number)
        if not elsewhere:
            return right
        return misheard(right, lesson(personal, student, tutor, speeches, number + elsewhere))

    learned = jax.tree.map(jnp.copy, untouched(student.params, student.avatar))
    memory = personal_optimiser(personal.sequence.rates).init(learned)
    state = TrainState(learned, memory, jnp.zeros((), jnp.int32))
    curve = [[0, judge.numbers(student.params)["correlation"]]]
    every = config.measure_every
    for stop in range(every, config.steps + 1, every):
        state = train(LoopConfig(stop, 5, every), step, state, batch_of, folder)
        if int(state.step) == stop:  # not where an interrupted run was further already
            numbers = judge.numbers(state.params.driver)
            print(folder.name, stop, numbers, flush=True)
            curve.append([stop, numbers["correlation"]])
    return curve, state


@functools.partial(jax.jit, static_argnums=0)
def _openings(
    driver: Driver, params: animate.Params, avatar: Avatar, drives: Drive
) -> Float[Array, "C T"]:
    code = animate.encode(driver, params, avatar)
    index = avatar.landmarks[np.array([lips.UPPER, lips.LOWER])]
    rest = jnp.linalg.norm(avatar.means[index[0]] - avatar.means[index[1]])

    def one(drive: Drive) -> Float[Array, " T"]:
        window = whole(drive, driver.config.halo)
        motion, _ = animate.track(driver, params, code, window, initial_state(driver.config))
        points, _ = animate.deform_points(driver, params, avatar, code, motion, index)
        return jnp.linalg.norm(points[:, 0] - points[:, 1], axis=-1) - rest

    return jax.lax.map(one, drives)
