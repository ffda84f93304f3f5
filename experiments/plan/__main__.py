"""Plan a training step before renting chips.

    python -m experiments.plan small --topology cpu:8 --check
    python -m experiments.plan video_dit:large --topology v5e:4x4 --mesh fsdp=4 --curve

Compiles the whole step ahead of time for a topology that need not be there (`v5e`, `v5p`, `v6e`:
the extra `tpu`; or simulated CPU devices) and prints what each chip will hold, compute, move and
send, whether it fits, and how long a step takes at the chips' best. The splatter is the one of XLA
on TPUs. `--curve` compiles the step on topologies of 1 to 256 chips too, adds the curve to
`experiments/results/plan.json` and draws all there. `--check` (CPU) takes steps and compares.
Limits of the prediction: a roofline is the best case, and the compiler counts bytes of loops as
those of one pass.
"""

import argparse
import json
import math
import os
import pathlib
import sys
from typing import Any

from experiments.benchmarks.apart import ROOT
from jaxavatar.errors import InputError
from jaxavatar.files import replacing

RESULT = ROOT / "experiments/results/plan.json"
_CURVE = tuple(2**k for k in range(9))


def main() -> None:
    """Parse, compile, say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", help="small, or video_dit:tiny, small, base, large")
    parser.add_argument("--topology", required=True, help="v5e:4x4, v6e:4x4, v5p:4x4x4 or cpu:8")
    parser.add_argument("--mesh", default="", metavar="AXIS=N,...", help="as for training")
    parser.add_argument("--curve", action="store_true", help="compile for 1 to 256 chips as well")
    parser.add_argument("--check", action="store_true", help="take the step here; cpu only")
    parser.add_argument("--out", type=pathlib.Path, default=RESULT, help="JSON; PNG beside it")
    options = parser.parse_args()
    try:
        run(options)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def run(options: argparse.Namespace) -> None:
    """Plan, and write what `--curve` and `--check` find."""
    from experiments.plan import chips

    kind, sides = chips.parse_topology(options.topology)
    if options.check and kind != "cpu":
        raise InputError("--check takes the step on this machine; it wants --topology cpu:N")
    if kind == "cpu":
        flag = f"--xla_force_host_platform_device_count={math.prod(sides)}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    import jax

    # What is computed eagerly runs on the CPU, whatever plugins there are.
    jax.config.update("jax_platforms", "cpu")
    from experiments.plan import cases, checking, compiling, report
    from jaxavatar.training import sharding

    case = cases.find_case(options.config)
    config = sharding.parse_mesh(options.mesh)
    backend = "xla" if kind != "cpu" else "native"

    def plan(sides: tuple[int, ...]) -> tuple[compiling.Plan, Any, Any]:
        mesh = sharding.make_mesh(chips.find_devices(kind, sides), config)
        return *compiling.compile_case(case, mesh, backend), mesh

    planned, compiled, mesh = plan(sides)
    chip = chips.find_chip(kind, planned.chips)
    for line in report.lines(options.config, options.topology, planned, chip):
        print(line, flush=True)
    row = {
        "config": options.config,
        "topology": options.topology,
        "mesh": options.mesh,
        "jax": jax.__version__,
        **report.describe(planned, chip),
    }
    if options.check:
        row["check"] = checking.take(case, planned, compiled, mesh, chip)
        for line in report.check_lines(row["check"]):
            print(line)
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    found = {"plans": [], "curves": []} | found
    _put(found["plans"], row, ("config", "topology", "mesh"))
    if options.curve:
        inner = config.fsdp * config.frame * config.tensor
        curve = _curve(options.config, kind, options.mesh, inner, planned, plan)
        print(json.dumps(curve))
        _put(found["curves"], curve, ("config", "kind", "mesh"))
    with replacing(options.out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    if options.curve:
        report.draw(found["curves"], options.out.with_suffix(".png"))


def _curve(
    config: str, kind: str, mesh: str, inner: int, planned: Any, plan: Any
) -> dict[str, Any]:
    """Return efficiencies up to 256 chips: by the model, and of compiled steps.

    They are relative to the fewest chips that the mesh's other axes allow.
    """
    from experiments.plan import chips, compiling

    rows, chip, first = [], chips.find_chip(kind, 1), None
    for sides in chips.squares(kind):
        count = math.prod(sides)
        if count < inner:
            continue
        found = planned if count == planned.chips else plan(sides)[0]
        seconds = compiling.predict(found, chip)
        first = first or (count, seconds, found.memory["parameters"])
        rows.append(
            {
                "chips": count,
                "step_s": seconds.step,
                "efficiency": first[1].step / seconds.step,
                "total_bytes": found.total,
                "compile_s": found.compile_s,
            }
        )
    if first is None:
        raise InputError(f"no topology of {kind} up to 256 chips has as many as the mesh asks for")
    least, seconds, gradient = first
    model = [
        {"chips": n, "efficiency": compiling.scale(seconds, gradient, chip, n // least)}
        for n in _CURVE
        if n >= least
    ]
    return {"config": config, "kind": kind, "mesh": mesh, "model": model, "compiled": rows}


def _put(rows: list[dict[str, Any]], row: dict[str, Any], key: tuple[str, ...]) -> None:
    """Add a row in place of the one of the same key."""
    rows[:] = [old for old in rows if any(old[name] != row[name] for name in key)] + [row]
    rows.sort(key=lambda row: [str(row[name]) for name in key])


if __name__ == "__main__":
    main()
