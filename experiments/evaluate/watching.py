"""Go through a pair of videos once and keep what the measures need: pictures are not kept."""

import dataclasses
import itertools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from PIL import Image

from experiments.evaluate.judges import Frame, Judges, embedded_face
from experiments.evaluate.sync import sync_of
from jaxavatar.errors import InputError
from jaxavatar.losses.image import psnr, ssim
from jaxavatar.losses.perceptual import lpips
from jaxavatar.metrics.frechet import Moments, moments
from jaxavatar.metrics.gestures import hand_scores
from jaxavatar.metrics.mouth_video import (
    closures_met,
    jitter,
    mouth_opening,
    silence_activity,
    silent_frames,
)
from jaxavatar.metrics.sync import SyncScores
from jaxavatar.metrics.tracks import Sighting, Track, join, sight
from jaxavatar.metrics.video_frames import read_frames, video_size
from jaxavatar.perception import efficientnet, vgg
from jaxavatar.speech import sound

SHORTEST = 12  # frames
_BODY = 5  # frames from one search for the body to the next
_SIDE = 224  # of EfficientNet's pictures
_SHOWN = (0.1, 0.5, 0.9)  # of a video
_PROPORTIONS = 0.02


@dataclasses.dataclass(frozen=True)
class Watched:
    """A pair of videos of T frames; the first of two is always the predicted one.

    Attributes:
        name: of the pair.
        size: height and width that were compared.
        lengths: frames of each video.
        psnr: of each frame, dB.
        ssim: of each frame.
        lpips: of each frame, or None.
        face_distance: of each frame's face from the reference's, NaN where none shows, or None.
        tracks: face and hands.
        features: of EfficientNet-Lite0.
        sync: of each video that can be scored, or None without weights.
        silent: which frames are silence, or None without sound.
        shown: some frames of each, side by side.
    """

    name: str
    size: tuple[int, int]
    lengths: tuple[int, int]
    psnr: Float[np.ndarray, " T"]
    ssim: Float[np.ndarray, " T"]
    lpips: Float[np.ndarray, " T"] | None
    face_distance: Float[np.ndarray, " T"] | None
    tracks: tuple[Track, Track]
    features: tuple[Moments, Moments]
    sync: tuple[SyncScores | None, SyncScores | None] | None
    silent: Bool[np.ndarray, " T"] | None
    shown: list[Frame]

    def openings(self) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
        """Return the mouth's opening in both."""
        ours, theirs = self.tracks
        return mouth_opening(ours.face), mouth_opening(theirs.face)

    def report(self) -> dict[str, Any]:
        """Return this pair's own figures, for JSON: [predicted, true] where both have one."""
        openings = self.openings()
        hands = [hand_scores(track) for track in self.tracks]
        quiet = self.silent
        figures = {
            "psnr": self.psnr.mean(),
            "ssim": self.ssim.mean(),
            "lpips": None if self.lpips is None else self.lpips.mean(),
            "face_distance": None if self.face_distance is None else mean(self.face_distance),
            "sync_confidence": _synced(self.sync, "confidence"),
            "sync_distance": _synced(self.sync, "distance"),
            "faces_found": [np.isfinite(o).mean() for o in openings],
            "jitter": [jitter(track.face) for track in self.tracks],
            "hkc": [h.hkc for h in hands],
            "hkv_confidence": [h.hkv_confidence for h in hands],
            "hkv_position": [h.hkv_position for h in hands],
            "hands_found": [h.found for h in hands],
            "closures_met": list(closures_met(*openings)),
            "silence_activity": [silence_activity(o, quiet) for o in openings]
            if quiet is not None
            else None,
        }
        plain = {"name": self.name, "size": list(self.size), "frames": list(self.lengths)}
        return plain | {key: _plain(value) for key, value in figures.items()}


def mean(values: Float[np.ndarray, " T"]) -> float:
    """Average what is known; NaN without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _synced(sync: tuple[SyncScores | None, ...] | None, of: str) -> list[float | None] | None:
    if sync is None:
        return None
    return [None if scores is None else getattr(scores, of) for scores in sync]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), 4)


def watch(name: str, ours: pathlib.Path, theirs: pathlib.Path, side: int, able: Judges) -> Watched:
    """Go through both videos together.

    Raises:
        InputError: one cannot be read, is shorter than 12 frames, or their proportions differ.
    """
    size = _size(ours, theirs, side)
    pixels: list[tuple[float, ...]] = []
    sightings: tuple[list[Sighting], list[Sighting]] = ([], [])
    features: list[Moments | None] = [None, None]
    distances: list[float] = []
    reference = able.reference
    places = _shown_places(theirs, size)
    shown: list[Frame] = []
    lengths = [0, 0]
    for pair in itertools.zip_longest(read_frames(ours, size), read_frames(theirs, size)):
        for k, frame in enumerate(pair):
            lengths[k] += frame is not None
        a, b = pair
        if a is None or b is None:
            continue
        pixels.append(_pixels(a, b, able))
        for k, frame in enumerate((a, b)):
            known = sightings[k][-1].body if (len(pixels) - 1) % _BODY else None
            sightings[k].append(sight(frame, known))
            seen = moments(_encode(able.encoder, _small(frame))[None])
            before = features[k]
            features[k] = seen if before is None else before + seen
        if able.embed is not None:
            if reference is None:
                reference = embedded_face(able.embed, b, sightings[1][-1])
            found = embedded_face(able.embed, a, sightings[0][-1])
            distances.append(_apart(found, reference))
        if len(pixels) - 1 in places:
            shown.append(np.concatenate([b, a], axis=1))
    if len(pixels) < SHORTEST:
        raise InputError(
            f"{ours} and {theirs} share {len(pixels)} frames; give at least {SHORTEST} of each"
        )
    assert features[0] is not None and features[1] is not None
    columns = np.array(pixels).T
    tracks = (join(sightings[0]), join(sightings[1]))
    sync = None
    if able.syncnet is not None:
        sync = (
            sync_of(ours, size, tracks[0], able.syncnet),
            sync_of(theirs, size, tracks[1], able.syncnet),
        )
    return Watched(
        name=name,
        size=size,
        lengths=(lengths[0], lengths[1]),
        psnr=columns[0],
        ssim=columns[1],
        lpips=columns[2] if able.lpips is not None else None,
        face_distance=np.array(distances) if able.embed is not None else None,
        tracks=tracks,
        features=(features[0], features[1]),
        sync=sync,
        silent=_silence(theirs, len(pixels)),
        shown=shown,
    )


def _size(ours: pathlib.Path, theirs: pathlib.Path, side: int) -> tuple[int, int]:
    (h, w), (height, width) = video_size(ours), video_size(theirs)
    if abs(h / w / (height / width) - 1) > _PROPORTIONS:
        raise InputError(
            f"{ours} is {w}x{h} and {theirs} {width}x{height}: cut them to the same proportions"
        )
    scale = min(1.0, side / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _shown_places(path: pathlib.Path, size: tuple[int, int]) -> set[int]:
    count = sum(1 for _ in read_frames(path, (max(size[0] // 16, 1), max(size[1] // 16, 1))))
    return {int(share * (count - 1)) for share in _SHOWN}


def _pixels(a: Frame, b: Frame, able: Judges) -> tuple[float, ...]:
    images = jnp.asarray(np.stack([a, b]))
    scores = _plainly(images)
    if able.lpips is not None:
        scores = (*scores, _learned(able.lpips, images))
    return tuple(float(score) for score in scores)


@jax.jit
def _plainly(images: Array) -> tuple[Array, Array]:
    a, b = images.astype(jnp.float32) / 255
    return psnr(a, b), ssim(a, b)


@jax.jit
def _learned(params: vgg.Params, images: Array) -> Array:
    a, b = images.astype(jnp.float32) / 255
    return lpips(params, a, b)


def _small(frame: Frame) -> Frame:
    """Stretch a frame to the encoder's square, as FID's protocol does to Inception's."""
    return np.asarray(Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))


@jax.jit
def _encode(params: efficientnet.Params, frame: Array) -> Float[Array, " D"]:
    (last,) = efficientnet.features(params, frame.astype(jnp.float32) / 255, efficientnet.TAPS[-1:])
    return last.mean((0, 1))


def _apart(a: np.ndarray | None, b: np.ndarray | None) -> float:
    return math.nan if a is None or b is None else float(np.linalg.norm(a - b))


def _silence(path: pathlib.Path, count: int) -> Bool[np.ndarray, " T"] | None:
    try:
        return silent_frames(sound.load(path), count)
    except InputError:  # a video without sound is scored all the same
        return None
