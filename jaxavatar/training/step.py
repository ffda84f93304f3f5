"""One step of training: a pure function of state and batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from pallas_splat import Camera

from jaxavatar import animate, losses
from jaxavatar.deformer import AvatarCode, Driver, Motion, initial_state, whole
from jaxavatar.losses import LossConfig
from jaxavatar.perception import dense
from jaxavatar.perception.dense import Keypoints, Places
from jaxavatar.reconstruction.correspond import hand_joints
from jaxavatar.structs import FPS, Avatar, BodyPose, Drive
from jaxavatar.training.frames import show
from jaxavatar.training.sharding import for_clips
from jaxavatar.training.state import TrainState

Metrics = dict[str, Float[Array, ""]]

_HANDS = np.maximum(np.stack([hand_joints("left"), hand_joints("right")]), 0)


@flax.struct.dataclass
class Batch:
    """B clips of T frames; every leaf has a leading axis B, left out below.

    All avatars of a batch have the same number of Gaussians per region. A teacher that lacks one
    of the kinds of knowledge leaves it None; the losses that need it are then left out.

    Attributes:
        avatar: whom the clip shows.
        drive: speech and text.
        camera: of the clip.
        background: a colour, [0, 1].
        motion: of the teacher, relative to the rest pose.
        keypoint_index: Gaussians whose centres are the keypoints.
        keypoints: where the teacher has them, pixels.
        keypoint_weights: confidence of each in [0, 1]; 0 ignores it. A clip starts from the rest
            pose, so the first frames of one cut from the middle of speech want zeros.
        frames: which R of the T frames are rendered.
        images: the teacher's pictures of these frames.
        masks: weight of each of their pixels.
        neighbours: graph of the canonical Gaussians, from `losses.neighbour_graph`.
        shifts: canonical displacements of the keypoints, for a teacher that shows these but not
            the whole motion, metres.
        detected: keypoints detected in `images`.
    """

    avatar: Avatar
    drive: Drive
    camera: Camera
    background: Float[Array, "B 3"]
    motion: BodyPose | None
    keypoint_index: Int[Array, "B K"]
    keypoints: Float[Array, "B T K 2"] | None
    keypoint_weights: Float[Array, "B T K"]
    frames: Int[Array, "B R"]
    images: Float[Array, "B R H W 3"] | None
    masks: Float[Array, "B R H W"] | None
    neighbours: Int[Array, "B N k"]
    shifts: Float[Array, "B T K 3"] | None = None
    detected: Keypoints | None = None


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What a step does.

    Attributes:
        loss: the weights of the objective.
        seed: of everything random in a step; its stream is the seed folded with the step.
        render: options of the splatter, as pairs of name and value.
        rematerialise: see `frames.show`; for clips of which many frames are rendered.
    """

    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    seed: int = 0
    render: tuple[tuple[str, Any], ...] = ()
    rematerialise: bool = False


PictureTerms = Callable[[Float[Array, "R H W 3"], Batch, Places, jax.Array], Metrics]
"""More losses on the rendered frames of one clip, given the clip, where its face and hands are in
these frames, and a key: named scalars."""


def clip_terms(
    config: StepConfig,
    driver: Driver,
    picture_terms: PictureTerms | None,
    params: animate.Params,
    clip: Batch,
    key: jax.Array,
    mesh: Mesh | None = None,
) -> Metrics:
    """Return the unweighted losses of one clip (no axis B), and "psnr"; `mesh` as for `show`."""
    code, motion = hear(driver, params, clip)
    terms = motion_terms(config, driver, params, clip, code, motion)
    return terms | picture_losses(
        config, driver, picture_terms, params, clip, code, motion, key, mesh
    )


def hear(driver: Driver, params: animate.Params, clip: Batch) -> tuple[AvatarCode, Motion]:
    """Return what the networks read of a clip's avatar, and the motion of all its frames."""
    code = animate.encode(driver, params, clip.avatar)
    window = whole(clip.drive, driver.config.halo)
    motion, _ = animate.track(driver, params, code, window, initial_state(driver.config))
    return code, motion


def motion_terms(
    config: StepConfig,
    driver: Driver,
    params: animate.Params,
    clip: Batch,
    code: AvatarCode,
    motion: Motion,
) -> Metrics:
    """Return the losses of one clip that need no picture: of keypoints and joints."""
    avatar = clip.avatar
    points, shift = animate.deform_points(driver, params, avatar, code, motion, clip.keypoint_index)
    terms = exact_terms(shift, motion.transforms, clip)
    if clip.keypoints is None:
        return terms
    hands = (clip.keypoint_index >= avatar.n_face) & (
        clip.keypoint_index < avatar.n_face + avatar.n_hand
    )
    seen = animate.project_points(points, clip.camera)
    terms["keypoint"] = losses.keypoint_distance(
        seen,
        clip.keypoints,
        clip.keypoint_weights,
        hands,
        config.loss.hand,
        config.loss.keypoint_width,
        config.loss.keypoint_penalty,
    )
    return terms | trajectory_terms(config, seen, clip.keypoints, clip.keypoint_weights)


def trajectory_terms(
    config: StepConfig,
    points: Float[Array, "T K 2"],
    targets: Float[Array, "T K 2"],
    weights: Float[Array, "T K"],
) -> Metrics:
    """Return those losses of the keypoints' trajectories that count.

    Jumps are those of the difference to the teacher's trajectory: its own articulation is free.
    """
    terms: Metrics = {}
    if config.loss.active("temporal"):
        terms["temporal"] = losses.jumps(points - targets, weights, config.loss.jump)
    if config.loss.active("spectral"):
        terms["spectral"] = losses.fast_share(points, config.loss.cutoff, FPS)
    if config.loss.active("spectrum"):
        terms["spectrum"] = losses.spectral_distance(points, targets, FPS)
    return terms


def picture_losses(
    config: StepConfig,
    driver: Driver,
    picture_terms: PictureTerms | None,
    params: animate.Params,
    clip: Batch,
    code: AvatarCode,
    motion: Motion,
    key: jax.Array,
    mesh: Mesh | None = None,
) -> Metrics:
    """Return the losses of the rendered frames of one clip, and "psnr"; none without pictures."""
    if clip.images is None:
        return {}
    shown = motion.frames(clip.frames)
    images, terms = show(
        driver,
        params,
        clip.avatar,
        code,
        shown,
        clip.camera,
        clip.background,
        clip.neighbours,
        config.render,
        config.rematerialise,
        mesh=mesh,
    )
    terms["image"] = losses.l1(images, clip.images, clip.masks)
    if picture_terms is not None:
        places = face_and_hands(driver, params, clip, code, shown)
        terms |= picture_terms(images, clip, places, key)
    return terms | {"psnr": losses.psnr(images, clip.images).mean()}


def face_and_hands(
    driver: Driver, params: animate.Params, clip: Batch, code: AvatarCode, shown: Motion
) -> Places:
    """Say where the face and the hands are in R frames of one clip; no gradient passes."""
    avatar = clip.avatar
    face, _ = animate.deform_points(driver, params, avatar, code, shown, avatar.landmarks)

    def hands(transforms: Float[Array, "J 7"]) -> Float[Array, "2 21 3"]:
        joints = _HANDS  # of what is no joint, the finger tips, nobody asks
        transform = animate.joint_transforms(avatar, transforms)[joints]
        return (
            jnp.einsum("...ab,...b->...a", transform[..., :3], avatar.joints[joints])
            + (transform[..., 3])
        )

    seen = (face, jax.vmap(hands)(shown.transforms))
    face_points, hand_points = (
        animate.project_points(points.reshape(len(points), -1, 3), clip.camera) for points in seen
    )
    where = dense.places(face_points, hand_points.reshape(-1, 2, 21, 2))
    return jax.lax.stop_gradient(where)


def exact_terms(
    shift: Float[Array, "T K 3"], transforms: Float[Array, "T J 7"], clip: Batch
) -> Metrics:
    """Compare with the teacher's own motion, where the teacher is one that knows it.

    These are the keypoints of eq. 9 before posing and projection. In the image a nod of the head
    hides what the lips do; here it does not, which makes learning many times faster.
    """
    terms: Metrics = {}
    weights, target = clip.keypoint_weights, clip.shifts
    if target is None and clip.motion is not None:
        target = animate.face_shift(clip.avatar, clip.motion.expression, clip.keypoint_index)
    if target is not None:
        known = (weights > 0)[..., None]
        apart = jnp.where(known, shift - jnp.where(known, target, 0.0), 0.0)
        off = losses.charbonnier(jnp.sum((1000.0 * apart) ** 2, axis=-1), 0.3)
        terms["shift"] = jnp.sum(weights * off) / jnp.maximum(jnp.sum(weights), 1e-6)
    if clip.motion is not None:
        turned = jaxlie.SE3(transforms).rotation().inverse() @ jaxlie.SO3.exp(clip.motion.rotations)
        angle = losses.charbonnier(jnp.sum(turned.log() ** 2, axis=-1), 0.01).mean(axis=-1)
        frames = weights.max(axis=1)
        terms["turn"] = jnp.sum(frames * angle) / jnp.maximum(jnp.sum(frames), 1e-6)
    return terms


def loss(
    config: StepConfig,
    driver: Driver,
    picture_terms: PictureTerms | None,
    params: animate.Params,
    batch: Batch,
    keys: Array,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Return the mean loss of the clips of a batch and its terms; one key per clip."""

    def one(clip: Batch, key: jax.Array) -> Metrics:
        return clip_terms(config, driver, picture_terms, params, clip, key, mesh)

    terms = jax.tree.map(jnp.mean, for_clips(one, mesh)(batch, keys))
    return weigh(terms, config.loss)


def weigh(terms: Metrics, config: LossConfig) -> tuple[Float[Array, ""], Metrics]:
    """Return the weighted sum of the terms, and all of them with "loss"; "psnr" only reports."""
    reported = {name: terms.pop(name) for name in ("psnr",) if name in terms}
    value, metrics = losses.total(terms, config)
    return value, metrics | reported


def make_train_step(
    config: StepConfig,
    driver: Driver,
    optimiser: optax.GradientTransformation,
    picture_terms: PictureTerms | None = None,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Build the step `(state, batch) -> (state, metrics)`; `sharding.compile_step` jits it.

    Args:
        config: weights and seed.
        driver: the network.
        optimiser: from `state.make_optimiser`.
        picture_terms: further losses on rendered frames, weighted by `config.loss` under their
            names: "perceptual" (a fixed visual encoder), "score" (eq. 8).
        mesh: devices to spread clips and rendered frames over; None computes all on one.

    Returns:
        The step. Metrics are means over the batch: the unweighted losses, "loss", "psnr" and
        "gradient" (its norm before clipping).
    """
    gradient = jax.value_and_grad(
        functools.partial(loss, config, driver, picture_terms, mesh=mesh), has_aux=True
    )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        keys = jax.random.split(key, batch.frames.shape[0])
        (_, metrics), gradients = gradient(state.params, batch, keys)
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient"] = optax.tree.norm(gradients)
        return TrainState(params, opt_state, state.step + 1), metrics

    return step
