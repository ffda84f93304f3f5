"""What the splatter's benchmark makes of its measurements: gate, growth, tables, plot, files."""

import json
import os
import pathlib
import re
from typing import Any

import numpy as np

from experiments.benchmarks import splat_cases
from experiments.benchmarks.splat_cases import Case, count

PSNR_MIN_DB = 50.0
OTHERS_MAX = 0.15  # cores; beyond it the machine was not quiet
PASSES = ("forward", "forward_backward")

Row = dict[str, Any]


def describe_case(case: Case) -> Row:
    """The case's part of a row."""
    return {
        "scene": case.scene,
        "gaussians": case.gaussians,
        "pixels": case.pixels,
        "batch": case.batch,
    }


def gate(rows: list[Row], folder: pathlib.Path, ours: list[str]) -> None:
    """Compare the images of one case; mark in place the rows whose times do not count.

    The image that the others are held against is that of the first of our backends that has one.

    Args:
        rows: of one case, with `status`.
        folder: holds `image-ENGINE.npy`.
        ours: names of our backends, in order.
    """
    images = {row["engine"]: folder / f"image-{row['engine']}.npy" for row in rows}
    made = [name for name in ours if name in images and images[name].exists()]
    for row in rows:
        path = images[row["engine"]]
        if not path.exists():
            continue
        if not made:
            row |= {"status": "gate failed", "message": "no image of ours to compare with"}
        elif row["engine"] != made[0]:
            decibels = psnr(np.load(path), np.load(images[made[0]]))
            row["psnr_db"] = round(decibels, 1)
            if not decibels >= PSNR_MIN_DB:
                message = f"{decibels:.1f} dB from {made[0]}, {PSNR_MIN_DB:.0f} needed"
                row |= {"status": "gate failed", "message": message}


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio for a peak of 1, dB; at most 200."""
    error = np.mean(np.square(image.astype(np.float64) - other))
    return float(-10 * np.log10(np.maximum(error, 1e-20)))


def time_of(row: Row | None, name: str) -> float | None:
    """Median milliseconds of a pass, None where there are none that count."""
    if row is None or row["status"] == "gate failed" or name not in row:
        return None
    return row[name]["median_ms"]


def growth(rows: list[Row]) -> list[Row]:
    """Fit time ~ N^exponent for every engine, scene, image size and batch with three sizes or more.

    Least squares on the logarithms of medians.
    """
    series: dict[tuple, list[Row]] = {}
    for row in rows:
        key = (row["engine"], row["scene"], row["pixels"], row["batch"])
        series.setdefault(key, []).append(row)
    fits = []
    for (engine, scene, pixels, batch), members in series.items():
        fit = {"engine": engine, "scene": scene, "pixels": pixels, "batch": batch}
        for name in PASSES:
            points = [(row["gaussians"], time_of(row, name)) for row in members]
            points = [(n, time) for n, time in points if time is not None]
            if len(points) >= 3:
                n, time = np.log(np.array(points)).T
                fit[name] = round(float(np.polyfit(n, time, 1)[0]), 3)
        if any(name in fit for name in PASSES):
            fits.append(fit)
    return fits


def table(results: dict[str, Any]) -> str:
    """Write the times, and how many times faster we are, as Markdown."""
    engines = list(results["engines"])
    peers = [name for name in engines if name in splat_cases.PEERS]
    ours = [name for name in engines if name not in splat_cases.PEERS]
    pairs = [(own, peer) for own in ours for peer in peers]
    header = ["scene", "Gaussians @ pixels", "cameras", *engines]
    header += [f"{own} : {peer}" for own, peer in pairs]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    cases: dict[tuple, dict[str, Row]] = {}
    for row in results["rows"]:
        key = (row["scene"], row["batch"], row["gaussians"], row["pixels"])
        cases.setdefault(key, {})[row["engine"]] = row
    for (scene, batch, n, pixels), by_engine in sorted(cases.items()):
        cells = [scene, f"{count(n)} @ {pixels}", str(batch)]
        cells += [brief(by_engine.get(name)) for name in engines]
        cells += [_ratios(by_engine.get(own), by_engine.get(peer)) for own, peer in pairs]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def disturbed(row: Row) -> str:
    """Say how much other processes took while a row was measured, if it was more than a little."""
    told = [row[name]["others_cores"] for name in PASSES if name in row]
    others = max((cores for cores in told if cores is not None), default=0.0)
    return f" (others kept {others:.1f} cores busy)" if others > OTHERS_MAX else ""


def remarks(row: Row) -> str:
    """What should be known about a row beside its times."""
    return disturbed(row) + (f" ({row['message']})" if "message" in row else "")


def brief(row: Row | None) -> str:
    """Forward / forward and backward milliseconds, or why there are none."""
    if row is None:
        return ""
    times = [time_of(row, name) for name in PASSES]
    if times == [None, None]:
        return row["status"]
    return " / ".join(row["status"] if time is None else _short(time) for time in times)


def _ratios(own: Row | None, peer: Row | None) -> str:
    ratios = []
    for name in PASSES:
        mine, theirs = time_of(own, name), time_of(peer, name)
        ratios.append("-" if mine is None or theirs is None else f"{_short(theirs / mine)}x")
    return "" if ratios == ["-", "-"] else " / ".join(ratios)


def _short(number: float) -> str:
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"


def slug(name: str) -> str:
    """Turn a device's name into a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def read(path: pathlib.Path) -> dict[str, Any]:
    """Read results."""
    return json.loads(path.read_text())


def write(results: dict[str, Any], path: pathlib.Path) -> None:
    """Write results, with the growth of the times; the file is whole at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps({**results, "growth": growth(results["rows"])}, indent=1)
    temporary.write_text(text + "\n")
    temporary.replace(path)


def publish(results: dict[str, Any], path: pathlib.Path) -> None:
    """Print the table and draw the plot beside the results."""
    print(table(results))
    noisy = sum(bool(disturbed(row)) for row in results["rows"])
    if noisy:
        print(f"\n{noisy} of {len(results['rows'])} rows were measured while others worked.")
    print()
    for fit in growth(results["rows"]):
        exponents = ", ".join(f"{name} {fit[name]:.2f}" for name in PASSES if name in fit)
        cameras = f" x {fit['batch']}" if fit["batch"] > 1 else ""
        where = f"{fit['scene']} @ {fit['pixels']}{cameras}"
        print(f"{fit['engine']} {where}: time grows as N to the power of: {exponents}")
    try:
        from experiments.benchmarks import splat_plot
    except ImportError as error:
        print(f"no plot: {error}; install the extra 'plot'")
        return
    splat_plot.draw(results, path.with_suffix(".png"))
    print(f"written to {path} and {path.with_suffix('.png')}")
