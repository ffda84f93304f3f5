"""The training steps that can be planned, by name, with a clip of the shapes that they take."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.configs import small
from experiments.configs import teacher as teaching
from jaxavatar import head_view, losses
from jaxavatar.data.people import random_person
from jaxavatar.data.talking_heads import Talk
from jaxavatar.deformer import Driver
from jaxavatar.errors import InputError
from jaxavatar.structs import Drive
from jaxavatar.teachers.protocol import Told
from jaxavatar.teachers.video_dit import CONFIGS, VideoDiTTeacher
from jaxavatar.training.state import TrainState, create_state, make_optimiser
from jaxavatar.training.step import Batch, make_train_step
from jaxavatar.training.video_dit import initial_state, make_flow_step

_TEXT = 32  # tokens of a sentence
NAMES = ("small", *(f"video_dit:{size}" for size in CONFIGS))


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step before it is compiled.

    Attributes:
        make_step: of a mesh and the splatter's backend.
        make_state: draws a state; its shapes come of `jax.eval_shape`.
        clip: one clip of a batch, without its leading axis.
        clips: of a batch, per device along the axes that split clips.
    """

    make_step: Callable[[Mesh, str], Callable[..., Any]]
    make_state: Callable[[], TrainState]
    clip: Any
    clips: int


def find_case(name: str) -> Case:
    """Return a training step by the name of its configuration.

    Raises:
        InputError: there is none of that name.
    """
    if name not in NAMES:
        raise InputError(f"'{name}' is no configuration; choose one of {', '.join(NAMES)}")
    return _driver() if name == "small" else _video(name.partition(":")[2])


def _driver() -> Case:
    config = small.get_config()
    driver, optimiser = Driver(config.driver), make_optimiser(config.optimiser)
    clip = _acted(config)

    def make_step(mesh: Mesh, backend: str) -> Callable[..., Any]:
        step = dataclasses.replace(config.step, render=(("backend", backend),))
        return make_train_step(step, driver, optimiser, mesh=mesh)

    def make_state() -> TrainState:
        return create_state(driver, optimiser, jax.random.key(0), clip.avatar, clip.drive)

    return Case(make_step, make_state, clip, config.batch.clips)


def _acted(config: small.Config) -> Batch:
    """Return a clip of a random person who hears noise and is taught to stand still."""
    rng = np.random.default_rng(0)
    sizes = config.batch
    avatar = random_person(0, config.gaussians)
    frames, points = sizes.frames, sizes.face_points + sizes.other_points
    drive = Drive(
        audio=jnp.asarray(rng.normal(size=(frames, 768)), jnp.float32),
        text=jnp.zeros((1, _TEXT, 384)),
        text_mask=jnp.ones((1, _TEXT), bool),
        segment=jnp.zeros(frames, jnp.int32),
        time=jnp.arange(frames),
    )
    pictures = (sizes.rendered, sizes.side, sizes.side)
    return Batch(
        avatar=avatar,
        drive=drive,
        camera=head_view.head_camera(avatar, sizes.side),
        background=jnp.ones(3),
        motion=jax.tree.map(lambda leaf: jnp.zeros((frames, *leaf.shape)), avatar.rest),
        keypoint_index=jnp.arange(points),
        keypoints=jnp.full((frames, points, 2), sizes.side / 2.0),
        keypoint_weights=jnp.ones((frames, points)),
        frames=jnp.arange(sizes.rendered),
        images=jnp.ones((*pictures, 3)),
        masks=jnp.ones(pictures),
        neighbours=jnp.asarray(losses.neighbour_graph(np.asarray(avatar.means), sizes.neighbours)),
    )


def _video(size: str) -> Case:
    config, model = teaching.get_config(), CONFIGS[size]
    teacher, optimiser = VideoDiTTeacher(model), make_optimiser(config.optimiser)
    rng = np.random.default_rng(0)
    picture = (model.side, model.side)

    def uniform(*shape: int) -> Any:
        return rng.random(shape, np.float32)

    told = Told(
        audio=uniform(model.frames + 2 * model.reach, model.audio_width),
        reference=uniform(*picture, 3),
    )
    clip = Talk(uniform(model.frames, *picture, 3), told, uniform(*picture), uniform(model.frames))
    return Case(
        lambda mesh, backend: make_flow_step(teacher, config.flow, optimiser),
        lambda: initial_state(model, optimiser, jax.random.key(0)),
        clip,
        config.talk.clips if model.autoencoder is None else 1,
    )
