"""The plot of the splatter's benchmark: time against the number of Gaussians."""

# pyright: reportMissingImports=false

import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from experiments.benchmarks.splat_report import PASSES, Row, time_of

_LOOKS = (  # colour and marker of each engine, in order; colours that the colour-blind tell apart
    ("#D55E00", "s"),
    ("#0072B2", "o"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
)
_STYLES: tuple[Any, ...] = (":", "-", "--")
_TITLES = {"forward": "forward", "forward_backward": "forward and backward"}


def draw(results: dict[str, Any], path: pathlib.Path) -> None:
    """Draw one panel per scene and pass, for one camera; both axes are logarithmic.

    Args:
        results: of the benchmark.
        path: of the PNG.
    """
    rows = [row for row in results["rows"] if row["batch"] == 1]
    if not rows:
        return
    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    engines = [
        {"label": name, "color": _LOOKS[i % len(_LOOKS)][0], "marker": _LOOKS[i % len(_LOOKS)][1]}
        for i, name in enumerate(results["engines"])
    ]
    sizes = {
        pixels: _STYLES[i % len(_STYLES)]
        for i, pixels in enumerate(sorted({row["pixels"] for row in rows}))
    }
    figure, axes = plt.subplots(
        len(scenes), 2, figsize=(11, 4 * len(scenes) + 0.8), sharex=True, sharey=True, squeeze=False
    )
    for line, scene in zip(axes, scenes, strict=True):
        for axis, name in zip(line, PASSES, strict=True):
            axis.set(xscale="log", yscale="log", title=f"{scene}, {_TITLES[name]}")
            axis.grid(True, alpha=0.3)
            for look in engines:
                for pixels, style in sizes.items():
                    wanted = (scene, look["label"], pixels)
                    x, y = _points(rows, wanted, name)
                    axis.plot(x, y, linestyle=style, markersize=4, linewidth=1.4, **look)
    for axis in axes[-1]:
        axis.set_xlabel("Gaussians")
    for axis in axes[:, 0]:
        axis.set_ylabel("median time, ms")
    handles = [Line2D([], [], markersize=4, **look) for look in engines]
    handles += [
        Line2D([], [], color="grey", linestyle=style, label=f"{pixels} pixels")
        for pixels, style in sizes.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), frameon=False)
    machine = results["machine"]
    gpus = {e["device"] for e in results["engines"].values() if e.get("platform") == "gpu"}
    told = ", ".join(sorted(gpus)) or f"{machine['processor']}, {machine['cores_allowed']} cores"
    figure.suptitle(f"{told}, one camera")
    figure.tight_layout(rect=(0, 0.3 / len(scenes) / 4, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _points(rows: list[Row], wanted: tuple, name: str) -> tuple[list[int], list[float]]:
    """Numbers of Gaussians and times of one line, in order."""
    times = {
        row["gaussians"]: time_of(row, name)
        for row in rows
        if (row["scene"], row["engine"], row["pixels"]) == wanted
    }
    counted = [n for n in sorted(times) if times[n] is not None]
    return counted, [times[n] for n in counted]  # pyright: ignore[reportReturnType]
