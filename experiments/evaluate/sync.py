"""SyncNet over a video whose face is known: the second pass of `evaluate`, in constant memory."""

import collections
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from jaxavatar.errors import InputError
from jaxavatar.metrics.sync import SyncScores, cepstra, face_squares, sync_scores
from jaxavatar.metrics.tracks import Track
from jaxavatar.metrics.video_frames import read_frames
from jaxavatar.perception import syncnet
from jaxavatar.perception.crops import box, cut
from jaxavatar.speech import sound
from jaxavatar.structs import SAMPLES_PER_FRAME

_GREY = 110 / 255  # around the picture
_SHORTEST = 16  # windows: shifts reach 15 frames

_lips, _sound = jax.jit(syncnet.embed_lips), jax.jit(syncnet.embed_sound)


def sync_of(
    path: pathlib.Path, size: tuple[int, int], track: Track, params: syncnet.Params
) -> SyncScores | None:
    """Score lips and sound of one video.

    Args:
        path: of the video.
        size: height and width that `track` refers to.
        track: of its frames, as many as are scored.
        params: of SyncNet.

    Returns:
        None when it has no sound, shows no face, or is shorter than 21 frames.
    """
    try:
        samples = sound.load_as_is(path)
    except InputError:
        return None
    windows = min(len(track.face), len(samples) // SAMPLES_PER_FRAME) - syncnet.FRAMES
    if windows < _SHORTEST or not np.isfinite(track.face).all((1, 2)).any():
        return None
    squares = face_squares(track.face)
    heard = cepstra(samples)
    recent: collections.deque[np.ndarray] = collections.deque(maxlen=syncnet.FRAMES)
    seen, spoken = [], []
    for frame, square in zip(read_frames(path, size), squares, strict=False):
        recent.append(_face(frame, square))
        if len(recent) < syncnet.FRAMES:
            continue
        begin = 4 * len(seen)
        seen.append(np.asarray(_lips(params, jnp.asarray(np.stack(recent)[None])))[0])
        part = jnp.asarray(heard[None, :, begin : begin + syncnet.STEPS], jnp.float32)
        spoken.append(np.asarray(_sound(params, part))[0])
        if len(seen) == windows:
            break
    return sync_scores(np.array(seen), np.array(spoken))


def _face(
    frame: UInt8[np.ndarray, "H W 3"], square: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "224 224 3"]:
    image = np.asarray(frame, np.float32) / 255
    x, y, side = (float(part) for part in square)
    return cut(image - np.float32(_GREY), box(x, y, side), syncnet.SIDE) + np.float32(_GREY)
