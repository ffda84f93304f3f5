"""Score videos against true ones: `python -m experiments.evaluate PRED GT [--reference PHOTO]`.

PRED and GT are two videos, or two folders whose videos pair by the stem of their names; any rate,
size and codec, so other systems' outputs are scored alike. Both are read at 25 frames per second,
upright, as far as the shorter one goes, and scaled to the true video's proportions with its longer
side at most `--side` pixels; every figure refers to that size. Prints a table, and writes it with
each video's figures as JSON and a PNG beside it.

Means are over the frames of a video, then over videos. A measure whose network has no weights here
says so instead of a number, and what takes its place carries another name.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import sys
import time
from typing import Any

import jax
import numpy as np

from experiments.evaluate.judges import Judges, judges
from experiments.evaluate.sheet import draw_sheet
from experiments.evaluate.table import Row, summary, table
from experiments.evaluate.watching import Watched, watch
from jaxavatar.errors import InputError
from jaxavatar.files import replacing
from jaxavatar.metrics.external import ask_scorer
from jaxavatar.metrics.video_frames import pair_videos

OUT = pathlib.Path("experiments/results/evaluate.json")
SIDE = 768


def main() -> None:
    """Parse, and turn mistakes of the user into one line."""
    parser = argparse.ArgumentParser(description="Score videos against true ones.")
    parser.add_argument("predicted", type=pathlib.Path, metavar="PRED", help="video or folder")
    parser.add_argument("true", type=pathlib.Path, metavar="GT", help="video or folder")
    parser.add_argument(
        "--reference",
        type=pathlib.Path,
        metavar="PHOTO",
        help="whose face it should be; default: the first frame of each true video",
    )
    parser.add_argument("--side", type=int, default=SIDE, help="longest side, pixels")
    parser.add_argument("--lpips", type=pathlib.Path, metavar="FILE", help="of `weights import`")
    parser.add_argument(
        "--identity", type=pathlib.Path, metavar="FOLDER", help="`model` of @vladmandic/face-api"
    )
    parser.add_argument("--syncnet", type=pathlib.Path, metavar="FILE", help="syncnet_v2.model")
    parser.add_argument(
        "--scorer", metavar="CMD", help="program for IQA and ASE, see jaxavatar/metrics/external.py"
    )
    parser.add_argument("--out", type=pathlib.Path, default=OUT, help="JSON file")
    arguments = parser.parse_args()
    try:
        evaluate(arguments)
    except InputError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def evaluate(arguments: argparse.Namespace) -> list[Row]:
    """Score, print and write; see the module's docstring.

    Raises:
        InputError: a video, a file of weights or the scorer's answer is not usable.
    """
    begun = time.monotonic()
    if arguments.side < 64:
        raise InputError(f"--side {arguments.side} is too small; give at least 64 pixels")
    pairs = pair_videos(arguments.predicted, arguments.true)
    able: Judges = judges(
        arguments.lpips, arguments.identity, arguments.reference, arguments.syncnet
    )
    videos: list[Watched] = []
    for name, ours, theirs in pairs:
        print(f"{name} ...", file=sys.stderr, flush=True)
        videos.append(watch(name, ours, theirs, arguments.side, able))
    scored = ask_scorer(arguments.scorer, [p for _, p, _ in pairs]) if arguments.scorer else {}
    rows = summary(videos, able, scored)
    print(table(rows))
    report: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "seconds": round(time.monotonic() - begun, 1),
        "side": arguments.side,
        "reference": "photo" if arguments.reference else "first true frame",
        "rows": [dataclasses.asdict(row) for row in rows],
        "videos": [video.report() for video in videos],
    }
    with replacing(arguments.out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    draw_sheet(arguments.out.with_suffix(".png"), videos, rows)
    print(arguments.out)
    return rows


if __name__ == "__main__":
    main()
