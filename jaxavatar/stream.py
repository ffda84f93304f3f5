"""The forward function in chunks: a video of any length in the memory of one chunk."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array, Float
from pallas_splat import Camera, Config, Gaussians, Rendered

from jaxavatar.animate import Params, deform_frames, encode, render_with_info, track
from jaxavatar.deformer import AvatarCode, Driver, Window, chunk, initial_state
from jaxavatar.structs import Avatar, Drive, Frames


def stream(
    driver: Driver,
    params: Params,
    avatar: Avatar,
    drive: Drive,
    camera: Camera,
    background: Float[Array, "#H #W 3"] | Float[Array, " 3"],
    frames: int = 25,
    backend: str | None = None,
    config: Config | None = None,
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

    Raises:
        ValueError: there are neither one nor T cameras, or the chunk is too long (see
            `deformer.chunk`).
    """
    drive = jax.device_get(drive)
    total = drive.audio.shape[0]
    cameras = _per_frame(camera, total)
    code = _encode(driver, params, avatar)
    state = initial_state(driver.config)
    config = Config() if config is None else config
    for start in range(0, total, frames):
        window = chunk(drive, start, frames, driver.config.halo)
        posed, state = _deform_chunk(driver, params, avatar, code, window, state)
        # Past the end, the last camera sees the frames that are dropped below.
        rows = np.minimum(start + np.arange(frames), total - 1)
        seen = jax.tree.map(lambda leaf, rows=rows: leaf[rows], cameras)
        rendered = _render_chunk(posed, seen, background, backend, config)
        if rendered.info.overflow.any():
            needed = int(1.25 * rendered.info.intersections.max())
            config = dataclasses.replace(config, capacity=1 << (needed - 1).bit_length())
            rendered = _render_chunk(posed, seen, background, backend, config)
        left = total - start
        yield Frames(images=rendered.image[:left], alpha=rendered.alpha[:left])


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
) -> tuple[Gaussians, Float[Array, "M S"]]:
    motion, state = track(driver, params, code, window, state)
    return deform_frames(driver, params, avatar, code, motion).gaussians, state


@functools.partial(jax.jit, static_argnums=(3, 4))
def _render_chunk(
    posed: Gaussians, cameras: Camera, background: Array, backend: str | None, config: Config
) -> Rendered:
    return render_with_info(posed, cameras, background, backend=backend, config=config)
