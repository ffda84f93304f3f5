"""One step of training through time: every frame of a clip is rendered and taught.

    config = SequenceConfig(rates=Rates(driver=1e-3, parts=("gaussian",), regions=("face",)))
    score = local_score(teacher, ScoreConfig(guidance=(2.0,)))
    optimiser = personal_optimiser(config.rates)
    learned = untouched(params, avatar)
    state = TrainState(learned, optimiser.init(learned), jnp.zeros((), jnp.int32))
    step = compile_step(make_sequence_step(config, driver, optimiser, score))
    camera = follow_head(avatar, head_camera(avatar, 64), transforms)
    watched = Watched(camera, background, teacher.condition(teacher_params, told))
    batch = jax.tree.map(lambda leaf: leaf[None], Sequence(clip, watched))
    state, metrics = step(state, batch, teacher_params)

`clip` is a `Batch`; what its teachers do not know is None there. `told` has S stretches along its
axis B: the clip of T frames is shown to the teacher in pieces of T / S. `score` is for eq. 8; the
teacher's parameters are handed to the step and are never differentiated. `sequence_terms` are the
losses of a single clip, for use outside a step. `retouched(avatar, state.params.avatar)` is the
avatar that came out, `state.params.driver` the driver.

Gradients flow through time: the loss of a late frame moves what an early sound did, through the
integration of twists (a parallel prefix) and the frames that the fusion looks at. Memory stays
bounded: clips of a batch come one after the other, and of a frame only its motion and its picture
are kept; the backward pass deforms and renders it again (`StepConfig.rematerialise`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float
from pallas_splat import Camera

from jaxavatar.deformer import AvatarCode, Driver, Motion
from jaxavatar.losses import LossConfig
from jaxavatar.losses.score import FrameGradient, ScoreConfig, frame_gradient, score_distillation
from jaxavatar.teachers.protocol import VideoTeacher
from jaxavatar.training import learned as learning
from jaxavatar.training.frames import show
from jaxavatar.training.learned import Learned, Rates
from jaxavatar.training.sharding import sum_over_clips
from jaxavatar.training.state import TrainState
from jaxavatar.training.step import (
    Batch,
    Metrics,
    PictureTerms,
    StepConfig,
    hear,
    motion_terms,
    picture_losses,
    weigh,
)

Score = Callable[[Any, Any, Float[Array, ""]], FrameGradient]
"""A teacher's parameters, its condition for one stretch of a clip (B = 1) and the progress of
training in [0, 1] to the gradient of eq. 8 at the frames of that stretch."""


@flax.struct.dataclass
class Watched:
    """What the video teacher sees of B clips of T frames; leading axis B, left out below.

    Attributes:
        camera: one for all frames, or one per frame (leaves with a leading axis T).
        background: a colour, [0, 1].
        condition: of the teacher, every leaf with a leading axis S: the clip is cut into S
            stretches of T / S frames, the length that the teacher works on.
    """

    camera: Camera
    background: Float[Array, "B 3"]
    condition: Any


@flax.struct.dataclass
class Sequence:
    """B clips of T frames with what their teachers know.

    Attributes:
        clip: keypoints and pictures. To have all frames rendered and compared, `frames` counts
            from 0 to T - 1.
        watched: for eq. 8; None leaves it out.
    """

    clip: Batch
    watched: Watched | None = None


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """What a sequence step does.

    Attributes:
        step: weights, seed and rendering.
        rates: what is trained.
        bounds: of changes of the avatar.
        score_moves: what eq. 8 may change: "motion" keeps its gradient from colours and
            opacities, which a diffusion model likes to saturate; "everything" does not.
        steps: of the whole training, to which its progress relates.
    """

    step: StepConfig = dataclasses.field(
        default_factory=lambda: StepConfig(
            loss=LossConfig(image=0.0, score=1.0), rematerialise=True
        )
    )
    rates: Rates = dataclasses.field(default_factory=Rates)
    bounds: learning.Bounds = dataclasses.field(default_factory=learning.Bounds)
    score_moves: str = "motion"
    steps: int = 1000


def local_score(teacher: VideoTeacher, config: ScoreConfig) -> Score:
    """Return eq. 8 of a teacher that runs in this process."""

    def score(params: Any, condition: Any, progress: Float[Array, ""]) -> FrameGradient:
        return frame_gradient(teacher, params, condition, config, progress)

    return score


def sequence_terms(
    config: SequenceConfig,
    driver: Driver,
    score: Score | None,
    picture_terms: PictureTerms | None,
    learned: Learned,
    item: Sequence,
    key: jax.Array,
    teacher_params: Any = None,
    progress: Float[Array, ""] | float = 0.0,
    mesh: Mesh | None = None,
) -> Metrics:
    """Return the unweighted losses of one clip (no axis B).

    Args:
        config: how.
        driver: the network.
        score: of eq. 8; used where `item.watched` is given.
        picture_terms: further losses on the frames that `item.clip.images` shows, by the names
            of their weights; "keypoint" (detected ones) takes the place of the exact keypoints.
        learned: what is trained.
        item: the clip.
        key: of everything random.
        teacher_params: first argument of `score`.
        progress: of training, [0, 1].
        mesh: devices that share the rendered frames.

    Raises:
        ValueError: the clip cannot be cut into the stretches of the teacher.
    """
    avatar = learning.retouched(item.clip.avatar, learned.avatar, config.bounds)
    clip = dataclasses.replace(item.clip, avatar=avatar)
    # The avatar changes to look right, not to tell the networks something.
    read = dataclasses.replace(clip, avatar=jax.lax.stop_gradient(avatar))
    code, motion = hear(driver, learned.driver, read)
    terms = motion_terms(config.step, driver, learned.driver, clip, code, motion)
    picture_key, score_key = jax.random.split(key)
    terms |= picture_losses(
        config.step, driver, picture_terms, learned.driver, clip, code, motion, picture_key, mesh
    )
    if score is None or item.watched is None:
        return terms
    images, shapes = _watch(config, driver, learned, clip, item.watched, code, motion, mesh)

    def bound(condition: Any) -> FrameGradient:
        return score(teacher_params, condition, jnp.asarray(progress))

    value = stretch_score(bound, images, item.watched.condition, score_key)
    # Where pictures were compared too, their shapes are already among the terms.
    return shapes | terms | {"score": value}


def _watch(
    config: SequenceConfig,
    driver: Driver,
    learned: Learned,
    clip: Batch,
    watched: Watched,
    code: AvatarCode,
    motion: Motion,
    mesh: Mesh | None,
) -> tuple[Float[Array, "T H W 3"], Metrics]:
    """Render all frames as the video teacher sees them."""
    if config.score_moves not in ("motion", "everything"):
        raise ValueError(f"eq. 8 moves 'motion' or 'everything', not {config.score_moves!r}")
    return show(
        driver,
        learned.driver,
        clip.avatar,
        code,
        motion,
        watched.camera,
        watched.background,
        clip.neighbours,
        config.step.render,
        config.step.rematerialise,
        appearance=config.score_moves == "everything",
        mesh=mesh,
    )


def stretch_score(
    score: Callable[..., FrameGradient],
    images: Float[Array, "T H W 3"],
    condition: Any,
    key: jax.Array,
) -> Float[Array, ""]:
    """Return L_vsd of a clip: the mean over its stretches, which the teacher sees one by one.

    Args:
        score: condition of one stretch (B = 1) to the gradient at its frames.
        images: the clip.
        condition: every leaf with a leading axis S.
        key: of noise.

    Raises:
        ValueError: T is no multiple of S.
    """
    count = jax.tree.leaves(condition)[0].shape[0]
    if len(images) % count:
        raise ValueError(f"{len(images)} frames cannot be cut into {count} stretches")
    cut = images.reshape(count, 1, -1, *images.shape[1:])
    single = jax.tree.map(lambda leaf: leaf[:, None], condition)

    def one(item: tuple[Array, Any, jax.Array]) -> Float[Array, ""]:
        frames, condition, key = item
        return score_distillation(score(condition), frames, key)

    return jax.lax.map(one, (cut, single, jax.random.split(key, count))).mean()


def make_sequence_step(
    config: SequenceConfig,
    driver: Driver,
    optimiser: optax.GradientTransformation,
    score: Score | None = None,
    picture_terms: PictureTerms | None = None,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Build the step `(state, batch, teacher_params=None) -> (state, metrics)`.

    Args:
        config: what it does.
        driver: the network.
        optimiser: from `learned.personal_optimiser`.
        score: see `sequence_terms`.
        picture_terms: likewise.
        mesh: devices to spread clips and rendered frames over; None computes all on one.

    Returns:
        The step, to be compiled by `sharding.compile_step`. `state.params` is a `Learned`,
        `batch` a `Sequence`. Metrics are as those of `step.make_train_step`.
    """

    def loss(
        learned: Learned, teacher: tuple[Any, Array], item: Sequence, key: jax.Array
    ) -> tuple[Float[Array, ""], Metrics]:
        learned = learning.trainable(learned, config.rates)
        params, progress = teacher
        terms = sequence_terms(
            config, driver, score, picture_terms, learned, item, key, params, progress, mesh
        )
        return weigh(terms, config.step.loss)

    def gradient(
        learned: Learned, teacher: tuple[Any, Array], batch: Sequence, keys: Array
    ) -> tuple[Metrics, Learned]:
        """Average over the clips, which come one after the other."""

        def one(item: Sequence, key: jax.Array) -> tuple[Metrics, Learned]:
            found = jax.value_and_grad(loss, has_aux=True)(learned, teacher, item, key)
            (_, metrics), slopes = found
            return metrics, slopes

        sums = sum_over_clips(one, mesh, batch, keys)
        return jax.tree.map(lambda total: total / len(keys), sums)

    def step(
        state: TrainState, batch: Sequence, teacher_params: Any = None
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.step.seed), state.step)
        keys = jax.random.split(key, batch.clip.frames.shape[0])
        progress = state.step / config.steps
        slopes: Any
        metrics, slopes = gradient(state.params, (teacher_params, progress), batch, keys)
        updates, opt_state = optimiser.update(slopes, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient"] = optax.tree.norm(slopes)
        return TrainState(params, opt_state, state.step + 1), metrics

    return step
