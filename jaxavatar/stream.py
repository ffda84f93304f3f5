"""The forward function in chunks: a video of any length in the memory of one chunk."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from pallas_splat import Camera, Config, Gaussians, Rendered

from jaxavatar.animate import (
    Params,
    deform_frames,
    deform_points,
    encode,
    follow,
    pose_avatar,
    render_with_info,
    track,
)
from jaxavatar.deformer import AvatarCode, Driver, Window, chunk, initial_state
from jaxavatar.structs import Avatar, BodyPose, Drive, Frames

CHUNK = 25
"""Frames that are worked on at once unless told otherwise."""

_Clip = TypeVar("_Clip")


def stream(
    driver: Driver,
    params: Params,
    avatar: Avatar,
    drive: Drive,
    camera: Camera,
    background: Float[Array, "#H #W 3"] | Float[Array, " 3"],
    frames: int = CHUNK,
    backend: str | None = None,
    config: Config | None = None,
    body: Float[Array, "T b 7"] | None = None,
) -> Iterator[Frames]:
    """Yield what `animate.animate` returns in chunks of `frames` frames, the last one shorter.

    The state of the joints is carried from chunk to chunk and each chunk sees the speech around
    it, so the chunks agree with the whole clip to rounding. All chunks have the same shapes: one
    compilation serves every chunk of every clip. A chunk that overflows the splatter's list is
    rendered again with a longer list, which later chunks keep.

    Args:
        driver: the network.
        params: its parameters.
        avatar: whom to move.
        drive: T frames of speech; only `frames` of them are worked on at a time.
        camera: one for all frames, or one per frame (leaves with a leading axis T).
        background: a colour or a picture, [0, 1].
        frames: length of a chunk.
        backend: of the splatter.
        config: of the splatter.
        body: transforms that the body follows instead of the speech, see `animate.follow`.

    Raises:
        ValueError: there are neither one nor T cameras, or the chunk is too long (see
            `deformer.chunk`).
    """
    total = drive.audio.shape[0]
    posed = stream_gaussians(driver, params, avatar, drive, frames, body)
    return _rendered(posed, total, camera, background, frames, backend, config)


def stream_gaussians(
    driver: Driver,
    params: Params,
    avatar: Avatar,
    drive: Drive,
    frames: int = CHUNK,
    body: Float[Array, "T b 7"] | None = None,
) -> Iterator[Gaussians]:
    """Yield what `stream` renders: posed Gaussians, every leaf with a leading axis of `frames`.

    What the last chunk holds past the end of the speech has no meaning. Arguments and errors are
    those of `stream`.
    """
    drive = jax.device_get(drive)
    body = jax.device_get(body)
    code = _encode(driver, params, avatar)
    state = initial_state(driver.config)
    for start in range(0, drive.audio.shape[0], frames):
        window = chunk(drive, start, frames, driver.config.halo)
        followed = None if body is None else _rows(body, start, frames)
        posed, state = _deform_chunk(driver, params, avatar, code, window, state, followed)
        yield posed


def stream_poses(
    avatar: Avatar,
    deltas: BodyPose,
    camera: Camera,
    background: Float[Array, "#H #W 3"] | Float[Array, " 3"],
    frames: int = CHUNK,
    backend: str | None = None,
    config: Config | None = None,
) -> Iterator[Frames]:
    """Yield renderings of `animate.pose_avatar` in chunks; arguments and result as for `stream`.

    Args:
        avatar: whom to pose.
        deltas: T frames relative to the rest pose.
        camera: one for all frames, or one per frame.
        background: a colour or a picture, [0, 1].
        frames: length of a chunk.
        backend: of the splatter.
        config: of the splatter.

    Raises:
        ValueError: there are neither one nor T cameras.
    """
    deltas = jax.device_get(deltas)
    total = len(deltas.rotations)
    posed = (_pose_chunk(avatar, _rows(deltas, start, frames)) for start in range(0, total, frames))
    return _rendered(posed, total, camera, background, frames, backend, config)


class Moved(NamedTuple):
    """What the driver does in t frames.

    Attributes:
        transforms: T_{m,t} relative to the rest pose, as in `Motion.transforms`.
        points: posed centres of some Gaussians, world metres.
        shifts: what the Gaussian head moved them by before that, canonical metres.
    """

    transforms: Float[np.ndarray, "t M 7"]
    points: Float[np.ndarray, "t K 3"]
    shifts: Float[np.ndarray, "t K 3"]


def stream_motion(
    driver: Driver,
    params: Params,
    avatar: Avatar,
    drive: Drive,
    frames: int = CHUNK,
    index: Int[Array, " K"] | None = None,
) -> Iterator[Moved]:
    """Yield what the driver does, in chunks of `frames` frames, the last one shorter.

    Args:
        driver: the network.
        params: its parameters.
        avatar: whom to move.
        drive: T frames of speech.
        frames: length of a chunk.
        index: Gaussians to follow; None stands for `avatar.landmarks`.
    """
    index = avatar.landmarks if index is None else index
    total = drive.audio.shape[0]
    code = _encode(driver, params, avatar)
    state = initial_state(driver.config)
    drive = jax.device_get(drive)
    for start in range(0, total, frames):
        window = chunk(drive, start, frames, driver.config.halo)
        moved, state = _track_chunk(driver, params, avatar, code, window, state, index)
        yield Moved(*(np.asarray(part[: total - start]) for part in moved))


def _rendered(
    chunks: Iterator[Gaussians],
    total: int,
    camera: Camera,
    background: Float[Array, "#H #W 3"] | Float[Array, " 3"],
    frames: int,
    backend: str | None,
    config: Config | None,
) -> Iterator[Frames]:
    """Render chunks of posed Gaussians, `frames` in each; drop what is past the end."""
    cameras = _per_frame(camera, total)
    config = Config() if config is None else config
    for start, posed in zip(range(0, total, frames), chunks, strict=True):
        seen = _rows(cameras, start, frames)
        rendered = _render_chunk(posed, seen, background, backend, config)
        if rendered.info.overflow.any():
            needed = int(1.25 * rendered.info.intersections.max())
            config = dataclasses.replace(config, capacity=1 << (needed - 1).bit_length())
            rendered = _render_chunk(posed, seen, background, backend, config)
        left = total - start
        yield Frames(images=rendered.image[:left], alpha=rendered.alpha[:left])


def _rows(clip: _Clip, start: int, frames: int) -> _Clip:
    """Cut frames out of numpy arrays with a leading axis T; past the end, the last one repeats."""
    return jax.tree.map(
        lambda leaf: leaf[np.minimum(start + np.arange(frames), len(leaf) - 1)], clip
    )


def _per_frame(camera: Camera, total: int) -> Camera:
    """Return a camera per frame, of numpy arrays: cutting these needs no compilation."""
    camera = jax.device_get(camera)
    if camera.viewmat.ndim == 2:
        return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (total, *leaf.shape)), camera)
    if len(camera.viewmat) != total:
        raise ValueError(f"{len(camera.viewmat)} cameras for {total} frames")
    return camera


_encode = jax.jit(encode, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _deform_chunk(
    driver: Driver,
    params: Params,
    avatar: Avatar,
    code: AvatarCode,
    window: Window,
    state: Float[Array, "M S"],
    body: Float[Array, "t b 7"] | None,
) -> tuple[Gaussians, Float[Array, "M S"]]:
    motion, state = track(driver, params, code, window, state)
    motion = motion if body is None else follow(motion, body)
    return deform_frames(driver, params, avatar, code, motion).gaussians, state


@functools.partial(jax.jit, static_argnums=0)
def _track_chunk(
    driver: Driver,
    params: Params,
    avatar: Avatar,
    code: AvatarCode,
    window: Window,
    state: Float[Array, "M S"],
    index: Int[Array, " K"],
) -> tuple[tuple[Array, Array, Array], Float[Array, "M S"]]:
    motion, state = track(driver, params, code, window, state)
    points, shifts = deform_points(driver, params, avatar, code, motion, index)
    return (motion.transforms, points, shifts), state


_pose_chunk = jax.jit(pose_avatar)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _render_chunk(
    posed: Gaussians, cameras: Camera, background: Array, backend: str | None, config: Config
) -> Rendered:
    return render_with_info(posed, cameras, background, backend=backend, config=config)
