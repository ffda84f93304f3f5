"""Keypoints of a teacher's frames, detected once and kept (paper, eq. 9)."""

import hashlib
import os
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxavatar.files import replacing
from jaxavatar.perception import dense
from jaxavatar.perception.dense import Detectors, Keypoints, Places

_detect = jax.jit(dense.detect_anew)


def teacher_keypoints(
    detectors: Detectors,
    frames: Float[np.ndarray, "R H W 3"],
    where: Places,
    folder: str | os.PathLike[str],
) -> Keypoints:
    """Return `dense.detect_anew` of a teacher's frames, from the folder if it holds them already.

    Args:
        detectors: from `dense.load_detectors`.
        frames: [0, 1].
        where: roughly, to begin with.
        folder: of files named after a hash of frames and places; created if need be.

    Raises:
        InputError: the folder cannot be written.
    """
    digest = hashlib.sha256(repr(frames.shape).encode())
    for part in (frames, *jax.tree.leaves(where)):
        digest.update(np.ascontiguousarray(part, np.float32).data)
    path = pathlib.Path(folder) / f"{digest.hexdigest()[:32]}.npz"
    if (known := _read(path)) is not None:
        return known
    found = jax.device_get(_detect(detectors, jnp.asarray(frames), where))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, points=found.points, weights=found.weights)
    return jax.tree.map(jnp.asarray, found)


def _read(path: pathlib.Path) -> Keypoints | None:
    """Read a file; None if there is none or it is damaged, in which case it is made again."""
    try:
        with np.load(path) as arrays:
            return Keypoints(jnp.asarray(arrays["points"]), jnp.asarray(arrays["weights"]))
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, KeyError):
        return None
