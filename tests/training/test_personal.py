"""Personal training: a person's run improves by the teacher's measure, and can be interrupted."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.body import LANDMARKS
from jaxavatar.deformer import Driver, DriverConfig
from jaxavatar.teachers.analytic import AnalyticTeacher, KnownClips
from jaxavatar.teachers.protocol import TeacherSpec
from jaxavatar.training import personal
from jaxavatar.training.learned import untouched
from jaxavatar.training.personal import PersonalConfig, Spoken, Tutor, examine, improve

SIDE, STRETCH = 8, 2
CONFIG = PersonalConfig(steps=6, yaw=0.0, pitch=0.0, colors=0.2, report_every=1, save_every=2)


@pytest.fixture(scope="module")
def student(toys):
    driver = Driver(
        DriverConfig(width=8, heads=2, head_width=8, face_code=4, octaves=2, reach=1, window=1)
    )
    avatar = toys.avatar(120, 60, 30, landmarks=len(LANDMARKS))
    return personal.make_student(driver, toys.driver_params(driver, avatar, toys.drive(4)), avatar)


@pytest.fixture(scope="module")
def tutor():
    """It knows two clips, of a light and of a dark wall, by their sounds."""
    frames = jnp.full((2, STRETCH, SIDE, SIDE, 3), 0.9).at[1].set(0.1)
    sounds = jnp.zeros((2, STRETCH, 10)).at[1].set(50.0)
    return Tutor(AnalyticTeacher(kernel=5.0), KnownClips(frames, sounds), SIDE, STRETCH)


@pytest.fixture(scope="module")
def speech(toys):
    return Spoken(toys.drive(9))


def test_a_run_that_was_interrupted_ends_the_same(tmp_path, monkeypatch, student, tutor, speech):
    """Bit for bit; and what the teacher would change of held-out speech becomes less."""
    assert CONFIG.stretches * STRETCH == 4
    through = improve(CONFIG, student, tutor, [speech], tmp_path / "through")
    lesson = personal.lesson

    def interrupted(config, student, tutor, speeches, number):
        if number == 5:
            raise KeyboardInterrupt
        return lesson(config, student, tutor, speeches, number)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(personal, "lesson", interrupted)
        improve(CONFIG, student, tutor, [speech], tmp_path / "parts")
    resumed = improve(CONFIG, student, tutor, [speech], tmp_path / "parts")
    assert int(resumed.step) == CONFIG.steps
    for a, b in zip(jax.tree.leaves(through), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)

    start = untouched(student.params, student.avatar)
    before = examine(CONFIG, student, start, tutor, [speech])
    after = examine(CONFIG, student, resumed.params, tutor, [speech])
    assert after.numbers["score"] < 0.95 * before.numbers["score"]
    assert before.frames.shape == (4, SIDE, SIDE, 3) and before.openings.shape == (8,)
    assert before.numbers["opening_mm"] == pytest.approx(1000 * before.openings.std())
    # An untrained driver moves nothing but by rounding, so all changes are the training's.
    assert "correlation" not in before.numbers


def test_the_lesson_is_a_function_of_its_number(student, tutor, speech):
    one, same, other = (
        personal.lesson(CONFIG, student, tutor, [speech], number) for number in (3, 3, 4)
    )
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True)
    )
    assert not np.array_equal(one.clip.background, other.clip.background)


@dataclasses.dataclass(frozen=True)
class Listening(AnalyticTeacher):
    """It writes down what it is told."""

    heard: list = dataclasses.field(default_factory=list, hash=False)

    def condition(self, params, told):
        self.heard.append(told)
        return jnp.zeros((len(told.audio), len(params.frames)))


@pytest.mark.parametrize("begin", [0, 2, 5])
def test_the_teacher_is_told_what_the_face_hears(student, tutor, speech, begin):
    """Each stretch its own sound, with that around it, and silence beyond the ends."""
    context, count = 3, 2 * STRETCH
    teacher = Listening(TeacherSpec(context=context))
    listening = dataclasses.replace(tutor, teacher=teacher)
    shown = personal.watch(student, listening, speech, begin, count, personal.FRONT)
    (told,) = teacher.heard
    spoken = np.asarray(speech.drive.audio)
    np.testing.assert_array_equal(shown.clip.drive.audio, spoken[begin : begin + count])
    assert told.audio.shape == (2, STRETCH + 2 * context, spoken.shape[1])
    for s in range(2):
        for t in range(STRETCH + 2 * context):
            frame = begin + s * STRETCH + t - context
            expected = spoken[frame] if 0 <= frame < len(spoken) else 0 * spoken[0]
            np.testing.assert_array_equal(told.audio[s, t], expected)
    assert told.reference.shape == (2, SIDE, SIDE, 3)


def test_losses_on_pictures_are_not_ignored_silently(tmp_path, student, tutor, speech):
    config = dataclasses.replace(CONFIG, loss=dataclasses.replace(CONFIG.loss, perceptual=0.1))
    with pytest.raises(ValueError, match="perceptual"):
        improve(config, student, tutor, [speech], tmp_path)
