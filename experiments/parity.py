"""Compare our functions with recordings of LHM's reference modules, one row per recording.

    python -m experiments.parity --data FOLDER

FOLDER holds `manifest.json` and an npz per recording: weights under their original names, inputs,
float32 outputs, and float64 outputs of some. Tolerances are the recordings': float32 within
atol + 1e-4 |output|, float64 within 3e-7 + 1e-6 |output| (the recorded modules keep root mean
squares and resized positions in float32), recordings of tokens of small variance within 1e-3 of
the largest output.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.parity_cases import Arrays, Case, find

ROOT = pathlib.Path(__file__).parents[1]
DATA = pathlib.Path(os.environ.get("JAXAVATAR_PARITY", ROOT / "../shared/data/parity"))
RESULT = ROOT / "experiments/results/parity.json"
RTOL = {"float32": 1e-4, "float64": 1e-6}
ATOL64 = 3e-7
SMALL_VARIANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Recording:
    """Arrays of one recording.

    Attributes:
        name: of the recording.
        config: of the module.
        weights: by original name.
        inputs: by name.
        outputs: expected, by type ("float32", "float64") and name.
    """

    name: str
    config: Mapping[str, Any]
    weights: Arrays
    inputs: Arrays
    outputs: Mapping[str, Arrays]


@dataclasses.dataclass(frozen=True)
class Errors:
    """How far a recording's outputs are from ours, the worst over all of them.

    Attributes:
        absolute: largest difference.
        relative: largest difference over the largest value of the same output.
        excess: largest difference over what is allowed there; up to 1 passes.
        worst: the output with that excess.
    """

    absolute: float
    relative: float
    excess: float
    worst: str


def names(folder: pathlib.Path) -> list[str]:
    """Return the recordings of a folder."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def load(folder: pathlib.Path, name: str) -> Recording:
    """Read a recording and its configuration."""
    manifest = json.loads((folder / "manifest.json").read_text())
    config = next((f["config"] for f in manifest["fixtures"] if f["name"] == name), {})
    with np.load(folder / f"{name}.npz") as data:
        kinds = [
            {key.removeprefix(kind): data[key] for key in data if key.startswith(kind)}
            for kind in ("w/", "in/", "out/", "out64/")
        ]
    outputs = {"float32": kinds[2], "float64": kinds[3]}
    return Recording(name, config, kinds[0], kinds[1], outputs)


def compare(recording: Recording, case: Case, kind: str) -> Errors | None:
    """Reproduce a recording in "float32" or "float64"; None where there is nothing to compare.

    Raises:
        ValueError: an output is not reproduced, or has another shape.
    """
    expected = recording.outputs[kind]
    if not expected or (kind == "float64" and case.only32):
        return None
    with jax.enable_x64(kind == "float64"):
        tensors, inputs = (
            {k: _cast(v, kind) for k, v in group.items()}
            for group in (recording.weights, recording.inputs)
        )
        made = case.run(tensors, inputs, recording.config)
        made = {name: np.asarray(array) for name, array in made.items()}
    tolerance = _tolerance(recording, case, kind)
    rows = slice(None) if case.drawn is None else (expected[case.drawn] > 0).all(-1)
    found = [
        _errors(name, made, np.asarray(array), rows, tolerance)
        for name, array in expected.items()
        if name != case.drawn
    ]
    worst = max(found, key=lambda errors: errors.excess)
    absolute, relative = (max(getattr(e, k) for e in found) for k in ("absolute", "relative"))
    return Errors(absolute, relative, worst.excess, worst.worst)


def _cast(array: np.ndarray, kind: str) -> Any:
    return jnp.asarray(array, kind) if array.dtype.kind == "f" else array


def _tolerance(recording: Recording, case: Case, kind: str) -> tuple[float, float, float]:
    """Return the absolute tolerance, the relative one, and the one of the largest value."""
    if recording.name.endswith("_small_variance"):
        return 0.0, 0.0, SMALL_VARIANCE
    return (case.atol if kind == "float32" else ATOL64), RTOL[kind], 0.0


def _errors(
    name: str,
    made: Mapping[str, np.ndarray],
    expected: np.ndarray,
    rows: Any,
    tolerance: tuple[float, float, float],
) -> Errors:
    if name not in made or made[name].shape != expected.shape:
        raise ValueError(f"{name} is not reproduced in the shape {expected.shape}")
    if expected.ndim:
        expected, actual = expected[rows].astype(np.float64), made[name][rows].astype(np.float64)
    else:
        expected, actual = expected.astype(np.float64), made[name].astype(np.float64)
    absolute, relative, of_largest = tolerance
    difference, largest = np.abs(actual - expected), float(np.abs(expected).max())
    difference = np.where(np.isfinite(difference), difference, np.inf)
    allowed = absolute + relative * np.abs(expected) + of_largest * largest
    error, excess = float(difference.max()), float((difference / allowed).max())
    return Errors(error, error / max(largest, 1e-30), excess, name)


def table(folder: pathlib.Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare all recordings of a folder.

    Returns:
        A row per recording that has a case, and the names of the others.
    """
    rows, others = [], []
    for name in names(folder):
        case = find(name)
        if case is None:
            others.append(name)
            continue
        recording = load(folder, name)
        row: dict[str, Any] = {"recording": name, "function": case.function}
        for kind in RTOL:
            found = compare(recording, case, kind)
            if found is None:
                continue
            absolute, relative, of_largest = _tolerance(recording, case, kind)
            row[kind] = {
                "absolute_error": float(f"{found.absolute:.3g}"),
                "relative_error": float(f"{found.relative:.3g}"),
                "of_allowed": float(f"{found.excess:.3g}"),
                "worst_output": found.worst,
                "atol": absolute,
                "rtol": relative,
                **({"of_largest": of_largest} if of_largest else {}),
            }
        row["passed"] = all(row[kind]["of_allowed"] <= 1 for kind in RTOL if kind in row)
        rows.append(row)
    return rows, others


def _line(row: Mapping[str, Any]) -> str:
    cells = []
    for kind in RTOL:
        found = row.get(kind)
        cells.append(
            f"{found['absolute_error']:8.1e} {found['relative_error']:8.1e} {found['atol']:7.0e}"
            if found
            else f"{'-':>8} {'-':>8} {'-':>7}"
        )
    state = "pass" if row["passed"] else "FAIL"
    return f"{row['recording']:26} {cells[0]}  {cells[1]}  {state}  {row['function']}"


def main() -> int:
    """Print the table, keep it as JSON, return 1 when a recording is not reproduced."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=pathlib.Path, default=DATA, help="folder of recordings")
    parser.add_argument("--out", type=pathlib.Path, default=RESULT, help="JSON result")
    arguments = parser.parse_args()
    if not (arguments.data / "manifest.json").is_file():
        print(f"there is no manifest.json in {arguments.data}; name a folder", file=sys.stderr)
        return 2
    rows, others = table(arguments.data)
    heads = f"{'absolute':>8} {'relative':>8} {'atol':>7}"
    print(f"{'':26} {'float32':^25}  {'float64':^25}\n{'recording':26} {heads}  {heads}")
    print("\n".join(map(_line, rows)))
    if others:
        print(f"not compared here: {', '.join(others)}")
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    result = {
        "command": "python -m experiments.parity",
        "device": jax.devices()[0].platform,
        **versions,
        "rows": rows,
        "not_compared_here": others,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    failed = [row["recording"] for row in rows if not row["passed"]]
    print(f"{len(rows) - len(failed)} of {len(rows)} recordings reproduced")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
