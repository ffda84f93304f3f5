"""The rows of `evaluate`: what each measure says about all pairs together, or why it cannot."""

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.evaluate.judges import Judges
from experiments.evaluate.watching import Watched, mean
from jaxavatar.metrics import lips
from jaxavatar.metrics.frechet import frechet_distance
from jaxavatar.metrics.gestures import hand_scores
from jaxavatar.metrics.mouth_video import closures_met, jitter, silence_activity

_FEW = 320  # features of EfficientNet-Lite0


@dataclasses.dataclass(frozen=True)
class Row:
    """One measure.

    Attributes:
        name: the paper's where it is the paper's measure.
        better: "up", "down", or "true" where the true videos' value is the goal.
        value: of the predicted videos; None where it cannot be said.
        true: of the true videos, where that says something.
        note: why there is no value, or how to read it.
    """

    name: str
    better: str
    value: float | None
    true: float | None = None
    note: str = ""


def summary(
    videos: Sequence[Watched], able: Judges, scored: Mapping[str, Sequence[float]]
) -> list[Row]:
    """Put all pairs together.

    Args:
        videos: the pairs.
        able: which networks there were.
        scored: answers of an external scorer.
    """
    return [*_pictures(videos, able), *_motion(videos), *_external(scored)]


def _pictures(videos: Sequence[Watched], able: Judges) -> list[Row]:
    learned = [v.lpips.mean() for v in videos if v.lpips is not None]
    faces = [mean(v.face_distance) for v in videos if v.face_distance is not None]
    ours, theirs = (
        functools.reduce(operator.add, (v.features[k] for v in videos)) for k in range(2)
    )
    few = f"{ours.count} frames"
    if ours.count <= _FEW:
        few += f": fewer than the {_FEW} features, biased upwards"
    return [
        Row("PSNR", "up", _mean([v.psnr.mean() for v in videos]), note="dB"),
        Row("SSIM", "up", _mean([v.ssim.mean() for v in videos])),
        Row(
            "LPIPS",
            "down",
            _mean(learned),
            note="VGG"
            if able.lpips
            else "weights absent: jaxavatar weights import lpips, then --lpips FILE",
        ),
        Row("FID", "down", None, note="weights absent: no Inception-v3 here"),
        Row(
            "frechet distance (EfficientNet-Lite0)",
            "down",
            frechet_distance(ours, theirs),
            note=few,
        ),
        Row("FVD", "down", None, note="weights absent: no I3D here"),
        Row("CSIM", "up", None, note="weights absent: no ArcFace here"),
        Row(
            "face distance (dlib)",
            "down",
            _mean(faces),
            note="of the reference; one person below 0.6"
            if able.embed
            else "weights absent: --identity FOLDER, model of the npm package @vladmandic/face-api",
        ),
    ]


def _motion(videos: Sequence[Watched]) -> list[Row]:
    openings = [v.openings() for v in videos]
    correlation, late = lips.follow([o for o, _ in openings], [t for _, t in openings])
    met, wanted = np.sum([closures_met(o, t) for o, t in openings], axis=0)
    hands = [[hand_scores(v.tracks[k]) for v in videos] for k in range(2)]
    sounds = [(v.silent, o) for v, o in zip(videos, openings, strict=True) if v.silent is not None]
    silence = [[silence_activity(pair[k], silent) for silent, pair in sounds] for k in (0, 1)]

    def both(name: str, better: str, of: str, note: str = "") -> Row:
        ours, theirs = (_mean([getattr(h, of) for h in part]) for part in hands)
        return Row(name, better, ours, theirs, note)

    found = [
        mean(np.isfinite(np.concatenate([pair[k] for pair in openings])) * 1.0) for k in (0, 1)
    ]
    trembling = [_mean([jitter(v.tracks[k].face) for v in videos]) for k in (0, 1)]
    return [
        *_sync(videos),
        both("HKC", "up", "hkc", "MediaPipe, one confidence per hand"),
        both("HKV (of confidence)", "true", "hkv_confidence"),
        both("HKV (of position)", "true", "hkv_position", "shoulder widths"),
        both("hands found", "true", "found", "share of frames and hands"),
        Row("faces found", "true", found[0], found[1], "share of frames"),
        Row("mouth correlation", "up", correlation),
        Row("mouth offset", "true", float(late), 0.0, "frames, positive is late"),
        Row("closures met", "up", met / wanted if wanted else None, note=f"of {wanted}"),
        Row(
            "silence activity",
            "true",
            _mean(silence[0]),
            _mean(silence[1]),
            "of the speed in speech" if np.isfinite(silence[1]).any() else "no silence",
        ),
        Row(
            "jitter",
            "true",
            trembling[0],
            trembling[1],
            note="% of the eyes' distance per frame²",
        ),
    ]


def _sync(videos: Sequence[Watched]) -> list[Row]:
    rows = []
    for name, better, of in (("SyncC", "up", "confidence"), ("SyncD", "down", "distance")):
        pairs = [video.sync for video in videos if video.sync is not None]
        ours, theirs = (
            _mean([getattr(pair[k], of) for pair in pairs if pair[k] is not None]) for k in (0, 1)
        )
        note = "weights absent: --syncnet FILE, syncnet_v2.model of SyncNet's release"
        rows.append(Row(name, better, ours, theirs, "faces by MediaPipe" if pairs else note))
    return rows


def _external(scored: Mapping[str, Sequence[float]]) -> list[Row]:
    absent = "not asked for: --scorer CMD"
    return [
        Row(
            name.upper(),
            "up",
            _mean(scored.get(name, [])),
            note="external scorer, 1 to 5" if name in scored else absent,
        )
        for name in ("iqa", "ase")
    ]


def _mean(values: Sequence[float]) -> float | None:
    """Average over videos those that have a value."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text."""
    signs = {"up": "↑", "down": "↓", "true": "="}
    wide = max(len(row.name) for row in rows)
    lines = [f"{'measure':{wide}}    {'value':>9} {'true':>9}"]
    for row in rows:
        value, true = (f"{'-' if x is None else f'{x:.4g}':>9}" for x in (row.value, row.true))
        lines.append(f"{row.name:{wide}} {signs[row.better]}  {value} {true}  {row.note}".rstrip())
    return "\n".join(lines)
