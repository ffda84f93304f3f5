"""The networks that judge frames beside the embedded ones, from files that the user names."""

import dataclasses
import functools
import os
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxavatar import photo
from jaxavatar.errors import InputError
from jaxavatar.metrics.tracks import Sighting, sight
from jaxavatar.perception import efficientnet, face, face_identity, syncnet, vgg
from jaxavatar.perception.crops import cut

Frame = UInt8[np.ndarray, "H W 3"]
Embed = Callable[[np.ndarray], Array]


@dataclasses.dataclass(frozen=True)
class Judges:
    """Networks beside the embedded ones; None where no weights were given."""

    encoder: efficientnet.Params
    lpips: vgg.Params | None
    embed: Embed | None
    reference: Float[np.ndarray, " 128"] | None
    syncnet: syncnet.Params | None


def judges(
    lpips_file: str | os.PathLike[str] | None,
    identity_folder: str | os.PathLike[str] | None,
    reference: str | os.PathLike[str] | None,
    syncnet_file: str | os.PathLike[str] | None,
) -> Judges:
    """Load the networks.

    Raises:
        InputError: a file is missing or damaged, or the reference shows no face.
    """
    embed, known = None, None
    if identity_folder is not None:
        params = face_identity.load(identity_folder)
        compiled = jax.jit(face_identity.embed)
        embed = functools.partial(compiled, params)
        if reference is not None:
            image = np.round(photo.load_photo(reference, 768).image * 255).astype(np.uint8)
            known = embedded_face(embed, image, sight(image))
            if known is None:
                raise InputError(f"{reference} shows no face; give a photo that looks at you")
    return Judges(
        encoder=efficientnet.load(),
        lpips=None if lpips_file is None else vgg.load_lpips(lpips_file),
        embed=embed,
        reference=known,
        syncnet=None if syncnet_file is None else syncnet.load(syncnet_file),
    )


def embedded_face(embed: Embed, frame: Frame, seen: Sighting) -> Float[np.ndarray, " 128"] | None:
    """Return the embedding of a frame's face, cut as the landmark network's own crop."""
    if not np.isfinite(seen.face).all():
        return None
    place = face.around(seen.face[:, :2])
    crop = cut(np.asarray(frame, np.float32) / 255, place, face_identity.SIZE)
    return np.asarray(embed(crop[None]))[0]
