"""Measure what the video teacher can teach: `python -m experiments.distill`.

The part "mouth": a wrong mouth learns from eq. 8 alone. The part "gradients": every loss and the
whole step against differences in float64. Writes `distill.json`. A part that was interrupted goes
on where it was.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import time

import jax

from experiments.distill import gradients, mouth
from jaxavatar import drive
from jaxavatar.data.clips import make_clips
from jaxavatar.files import replacing
from jaxavatar.teachers.video_dit import VideoDiTTeacher, load_params
from jaxavatar.teachers.video_dit.weights_file import PACKAGED
from jaxavatar.training.batches import clip_drive
from jaxavatar.training.personal import Spoken, Tutor

_RESULTS = pathlib.Path("experiments/results")
_SENTENCES, _VOICES = range(32), ("slt", "awb")
_HELD_OUT, _HELD_OUT_VOICES = range(2_000_000, 2_000_010), ("rms",)


def main() -> None:
    """Parse, measure, save."""
    parser = argparse.ArgumentParser(description="Measure what the video teacher can teach.")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/distill"))
    parser.add_argument("--results", type=pathlib.Path, default=_RESULTS)
    parser.add_argument("--weights", type=pathlib.Path, default=PACKAGED, help="of the teacher")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    target = arguments.results / "distill.json"
    report = json.loads(target.read_text()) if target.exists() else {}
    for number, part in enumerate(arguments.only, start=1):
        print(f"{number} of {len(arguments.only)}: {part}", flush=True)
        started = time.monotonic()
        found = PARTS[part](arguments)
        report[part] = {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__}",
            "minutes": round((time.monotonic() - started) / 60, 1),
            "teacher_weights": _digest(arguments.weights),
            **found,
        }
        with replacing(target) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")


def _mouth(arguments: argparse.Namespace) -> dict:
    folder = arguments.out / _digest(arguments.weights)
    return mouth.run(mouth.MouthConfig(), _tutor(arguments), *_speeches(arguments.out), folder)


def _gradients(arguments: argparse.Namespace) -> dict:
    _, held_out = _speeches(arguments.out)
    return {"relative_errors": gradients.run(gradients.GradientsConfig(), held_out[0])}


def _tutor(arguments: argparse.Namespace) -> Tutor:
    params, config = load_params(arguments.weights)
    return Tutor(VideoDiTTeacher(config), params, config.side, config.frames)


def _speeches(out: pathlib.Path) -> tuple[list[Spoken], list[Spoken]]:
    """Let synthetic voices speak, to learn from and to measure on."""
    listener = drive.load_listener()
    kinds = {"clips": (_SENTENCES, _VOICES), "clips_reported": (_HELD_OUT, _HELD_OUT_VOICES)}
    made = []
    for name, (seeds, voices) in kinds.items():
        clips = make_clips(out / f"{name}.npz", seeds, voices, listener)
        made.append([Spoken(clip_drive(clip), clip.motion) for clip in clips])
    return made[0], made[1]


def _digest(path: pathlib.Path) -> str:
    """Return the first digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


PARTS = {"mouth": _mouth, "gradients": _gradients}


if __name__ == "__main__":
    main()
