"""The forward function: speech and an avatar to posed Gaussians to frames.

    encode (once per avatar) -> track (speech to motion) -> deform (per frame) -> render (per frame)

Between `track` and `deform_frames`, `follow` lets the body follow a given motion instead.

Training differentiates these functions, the command line calls them, and the procedural teacher
shares the posing; there is no second copy. `animate` is the whole chain for one clip; module
`stream` runs it in chunks, for speech of any length. `params` is what `Driver.init` returns.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import jaxlie
import pallas_splat
from jaxtyping import Array, Float, Int
from pallas_splat import Camera, Gaussians, Rendered

from jaxavatar import body
from jaxavatar.deformer import (
    AvatarCode,
    Driver,
    Motion,
    Offsets,
    Window,
    initial_state,
    whole,
)
from jaxavatar.structs import Avatar, BodyPose, Drive, Frames

Params = dict[str, Any]

BODY_JOINTS = body.JOINTS.index("jaw")
"""Pelvis, legs, spine, neck, head and arms down to the wrists: the joints before the jaw."""


@flax.struct.dataclass
class Deformed:
    """Posed Gaussians with what the regularisers want to know about them.

    Attributes:
        gaussians: ready to render; `linear` is the skinning's times I + dS.
        skinning: linear part of the skinning alone.
        offsets: what the Gaussian head added.
    """

    gaussians: Gaussians
    skinning: Float[Array, "*T N 3 3"]
    offsets: Offsets


def encode(driver: Driver, params: Params, avatar: Avatar) -> AvatarCode:
    """Prepare an avatar for `track` and `deform_frames`."""
    return _apply(driver, params, "encode", avatar)


def track(
    driver: Driver, params: Params, code: AvatarCode, window: Window, state: Float[Array, "M S"]
) -> tuple[Motion, Float[Array, "M S"]]:
    """Turn a stretch of speech into motion; return it and the state after its last frame."""
    return _apply(driver, params, "track", code, window, state)


def delta_transforms(avatar: Avatar, deltas: BodyPose) -> Float[Array, "*T J 7"]:
    """Return the T_m of explicit rotations and translations: what `track` predicts.

    Args:
        avatar: whom to pose.
        deltas: one pose or a clip, relative to `avatar.rest`, as `pose_avatar` takes it; its
            expression is not used.

    Returns:
        Parameters of jaxlie.SE3, as in `Motion.transforms`.
    """
    turned = jaxlie.SO3.exp(deltas.rotations)
    # The pelvis moves in the world: seen from its rest frame, that is turned back.
    back = jaxlie.SO3.exp(avatar.rest.rotations[0]).inverse().as_matrix()
    shift = jnp.einsum(
        "ab,...b->...a", back, deltas.translation, precision=jax.lax.Precision.HIGHEST
    )
    translations = jnp.zeros_like(deltas.rotations).at[..., 0, :].set(shift)
    return jaxlie.SE3.from_rotation_and_translation(turned, translations).wxyz_xyz


def joint_transforms(avatar: Avatar, transforms: Float[Array, "J 7"]) -> Float[Array, "J 3 4"]:
    """Compose the rest pose with the motion of each joint; return what skinning blends.

    Args:
        avatar: whom to pose.
        transforms: T_m of one frame, relative to the rest pose, as in `Motion.transforms`.
    """
    rest = body.local_transforms(avatar.rest.rotations, avatar.rest.translation)
    return body.skinning_transforms(avatar.joints, rest @ jaxlie.SE3(transforms), body.PARENTS)


def body_transforms(avatar: Avatar, deltas: BodyPose) -> Float[Array, "T b 7"]:
    """Return what `follow` takes from a clip of poses: `delta_transforms` of the body's joints."""
    return delta_transforms(avatar, deltas)[:, :BODY_JOINTS]


def follow(motion: Motion, transforms: Float[Array, "T b 7"]) -> Motion:
    """Let the first `b` joints follow given transforms, the others stay with the speech.

    Args:
        motion: T frames, from `track`.
        transforms: T_m of the first `BODY_JOINTS` joints, from `body_transforms`.
    """
    kept = motion.transforms[:, transforms.shape[1] :]
    return dataclasses.replace(motion, transforms=jnp.concatenate([transforms, kept], axis=1))


def deform_frames(
    driver: Driver, params: Params, avatar: Avatar, code: AvatarCode, motion: Motion
) -> Deformed:
    """Pose an avatar by every frame of a motion, one frame at a time (constant memory).

    Joint m's local transform is that of the rest pose composed with T_{m,t}; skinning carries
    canonical centre + dp; eq. 6 and 7 change covariance, opacity and colour.

    Returns:
        Every leaf with a leading axis T.
    """

    def frame(motion: Motion) -> Deformed:
        offsets = _apply(driver, params, "offsets", code.queries, motion)
        transforms = joint_transforms(avatar, motion.transforms)
        means, linear = body.skin(avatar.means + offsets.position, avatar.weights, transforms)
        return Deformed(
            gaussians=apply_offsets(avatar, means, linear, offsets),
            skinning=linear,
            offsets=offsets,
        )

    return jax.lax.map(frame, motion)


def deform_points(
    driver: Driver,
    params: Params,
    avatar: Avatar,
    code: AvatarCode,
    motion: Motion,
    index: Int[Array, " K"],
) -> tuple[Float[Array, "T K 3"], Float[Array, "T K 3"]]:
    """Return some Gaussians of `deform_frames(...)`, cheaply.

    Returns:
        Their posed centres, and the displacements dp that are contained in them.
    """
    queries = code.queries.select(index)

    def frame(motion: Motion) -> tuple[Float[Array, "K 3"], Float[Array, "K 3"]]:
        shift = _apply(driver, params, "offsets", queries, motion).position
        transforms = joint_transforms(avatar, motion.transforms)
        means = avatar.means[index] + shift
        return body.skin(means, avatar.weights[index], transforms)[0], shift

    return jax.vmap(frame)(motion)


def deform(
    driver: Driver,
    params: Params,
    avatar: Avatar,
    drive: Drive,
    state: Float[Array, "M S"] | None = None,
) -> tuple[Gaussians, Float[Array, "M S"]]:
    """Drive an avatar by a whole clip.

    Args:
        driver: the network.
        params: its parameters.
        avatar: whom to move.
        drive: T frames of speech and text.
        state: where the joints start; the rest pose when None.

    Returns:
        Posed Gaussians in the world, every leaf with a leading axis T, and the state after the
        last frame.
    """
    code = encode(driver, params, avatar)
    state = initial_state(driver.config) if state is None else state
    motion, state = track(driver, params, code, whole(drive, driver.config.halo), state)
    return deform_frames(driver, params, avatar, code, motion).gaussians, state


def pose_avatar(avatar: Avatar, deltas: BodyPose) -> Gaussians:
    """Pose an avatar by explicit rotations and expressions: what `deform` does, without a network.

    Args:
        avatar: whom to pose.
        deltas: relative to `avatar.rest`, with a leading axis T: rotations composed with the rest
            rotations (in the joint's rest frame), metres of pelvis translation added in the
            world, face units added. All zeros give the rest pose.

    Returns:
        Posed Gaussians, every leaf with a leading axis T.
    """

    def frame(delta: BodyPose) -> Gaussians:
        face = jnp.einsum("nek,e->nk", avatar.face_units, delta.expression)
        points = avatar.means.at[: avatar.n_face].add(face)
        transforms = joint_transforms(avatar, delta_transforms(avatar, delta))
        means, linear = body.skin(points, avatar.weights, transforms)
        return _gaussians(avatar, means, linear, avatar.opacities, avatar.colors)

    return jax.lax.map(frame, deltas)


def pose_points(avatar: Avatar, deltas: BodyPose, index: Int[Array, " K"]) -> Float[Array, "T K 3"]:
    """Return the posed centres of some Gaussians only: `pose_avatar(...)` at `index`, cheaply."""
    points = avatar.means[index] + face_shift(avatar, deltas.expression, index)

    def frame(points: Float[Array, "K 3"], delta: BodyPose) -> Float[Array, "K 3"]:
        transforms = joint_transforms(avatar, delta_transforms(avatar, delta))
        return body.skin(points, avatar.weights[index], transforms)[0]

    return jax.vmap(frame)(points, deltas)


def face_shift(
    avatar: Avatar, expression: Float[Array, "T E"], index: Int[Array, " K"]
) -> Float[Array, "T K 3"]:
    """Return how far face units move some Gaussians, canonical metres; 0 beyond the face."""
    on_face = (index < avatar.n_face)[:, None, None]
    units = jnp.where(on_face, avatar.face_units[jnp.minimum(index, avatar.n_face - 1)], 0.0)
    return jnp.einsum("nek,te->tnk", units, expression)


def apply_offsets(
    avatar: Avatar, means: Float[Array, "N 3"], linear: Float[Array, "N 3 3"], offsets: Offsets
) -> Gaussians:
    """Apply what is left of the offsets after skinning (eq. 6 and 7; dp is in `means` already)."""
    stretched = jnp.einsum("nab,nbc->nac", linear, offsets.stretch)
    return _gaussians(
        avatar,
        means,
        linear + stretched,
        jnp.clip(avatar.opacities + offsets.opacity, 0.0, 1.0),
        jnp.clip(avatar.colors + offsets.color, 0.0, 1.0),
    )


def render_frames(
    posed: Gaussians,
    camera: Camera,
    background: Float[Array, "#H #W 3"] | Float[Array, " 3"],
    **options: Any,
) -> Frames:
    """Render posed Gaussians frame by frame, in the memory of one frame.

    Args:
        posed: every leaf with a leading axis T.
        camera: one for all frames, or one per frame (leaves with a leading axis T).
        background: a colour or a picture, [0, 1].
        options: passed to `pallas_splat.render` (backend, config). A frame whose Gaussians do not
            fit into `config.capacity` is NaN.
    """
    rendered = render_with_info(posed, camera, background, **options)
    return Frames(images=rendered.image, alpha=rendered.alpha)


def render_with_info(
    posed: Gaussians,
    camera: Camera,
    background: Float[Array, "#H #W 3"] | Float[Array, " 3"],
    **options: Any,
) -> Rendered:
    """Render as `render_frames` does; every leaf of the result has a leading axis T."""

    def frame(item: tuple[Gaussians, Camera]) -> Rendered:
        return pallas_splat.render(*item, background=background, **options)

    if camera.viewmat.ndim == 3:
        return jax.lax.map(frame, (posed, camera))
    return jax.lax.map(lambda gaussians: frame((gaussians, camera)), posed)


def animate(
    driver: Driver,
    params: Params,
    avatar: Avatar,
    drive: Drive,
    camera: Camera,
    background: Float[Array, "#H #W 3"] | Float[Array, " 3"],
    **options: Any,
) -> Frames:
    """Render an avatar that speaks a clip; arguments as for `deform` and `render_frames`.

    Holds all T frames at once; `stream.stream` gives the same for speech of any length.
    """
    posed, _ = deform(driver, params, avatar, drive)
    return render_frames(posed, camera, background, **options)


def project_points(points: Float[Array, "*T K 3"], camera: Camera) -> Float[Array, "*T K 2"]:
    """Project world points to pixels (x, y); pixel centres are at +0.5.

    Points must lie in front of the camera.
    """
    viewmat, K = camera.viewmat, camera.K
    turned = jnp.einsum(
        "...ab,...kb->...ka", viewmat[..., :3, :3], points, precision=jax.lax.Precision.HIGHEST
    )
    seen = turned + viewmat[..., None, :3, 3]
    focal = jnp.stack([K[..., 0, 0], K[..., 1, 1]], axis=-1)[..., None, :]
    centre = K[..., None, :2, 2]
    return seen[..., :2] / seen[..., 2:] * focal + centre


def _apply(driver: Driver, params: Params, method: str, *arguments: Any) -> Any:
    """Call a method of the network, without the mutable state that it does not have."""
    return driver.apply(params, *arguments, method=method)


def _gaussians(
    avatar: Avatar,
    means: Float[Array, "N 3"],
    linear: Float[Array, "N 3 3"],
    opacities: Float[Array, " N"],
    colors: Float[Array, "N 3"],
) -> Gaussians:
    return Gaussians(
        means=means,
        quats=avatar.quats,
        scales=avatar.scales,
        opacities=opacities,
        colors=colors,
        linear=linear,
    )
