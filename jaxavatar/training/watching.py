"""What a video teacher sees and hears of a person: the camera goes with the head."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from pallas_splat import Camera

from jaxavatar import animate, head_view, losses
from jaxavatar.deformer import Driver, initial_state, whole
from jaxavatar.structs import Avatar, BodyPose, Drive
from jaxavatar.teachers.protocol import Told, VideoTeacher
from jaxavatar.training.sequence import Sequence, Watched
from jaxavatar.training.step import Batch

_NEIGHBOURS = 6


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


@flax.struct.dataclass
class View:
    """Where the teacher watches from: arguments of `head_view.head_camera`, and what is behind."""

    yaw: Float[Array, ""]
    pitch: Float[Array, ""]
    height: Float[Array, ""]
    background: Float[Array, " 3"]


FRONT = View(jnp.array(0.1), jnp.array(0.0), jnp.array(head_view.HEIGHT), jnp.full(3, 0.6))
"""From where held-out clips are watched."""


def make_student(driver: Driver, params: animate.Params, avatar: Avatar) -> Student:
    """Connect the neighbours of an avatar."""
    graph = losses.neighbour_graph(np.asarray(avatar.means), _NEIGHBOURS)
    return Student(driver, params, avatar, jnp.asarray(graph))


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
