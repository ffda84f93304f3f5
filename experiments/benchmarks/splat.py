"""Time the splatter against its peers: `python -m experiments.benchmarks.splat`.

Every engine renders every case in a process of its own, from the same inputs, forward and forward
with gradients. An image must agree with ours to 50 dB before its time counts. Results go to
`experiments/results/splat_<device>.json` and `.png` after every case; a table is printed.

    python -m experiments.benchmarks.splat --peer-python /path/to/python/with/torch
    python -m experiments.benchmarks.splat --table       # of the results that are there
"""

import argparse
import concurrent.futures
import datetime
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from pallas_splat import engines

from experiments.benchmarks import splat_cases, splat_process, splat_report, splat_worker
from experiments.benchmarks.apart import processor
from experiments.benchmarks.splat_cases import Case
from experiments.benchmarks.splat_process import Job

RESULTS = pathlib.Path(__file__).parents[1] / "results"


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark, or print the table of one that was run."""
    options = parse(arguments)
    if options.table:
        path = options.out or RESULTS / "splat_cpu.json"
        splat_report.publish(splat_report.read(path), path)
        return
    runnable, absent = probe(options)
    for name, why in absent.items():
        print(f"{name}: skipped: {why}")
    platform = next((e for _, e in runnable.values() if e["platform"] != "cpu"), None)
    device = splat_report.slug(platform["device"]) if platform else "cpu"
    path = options.out or RESULTS / f"splat_{device}.json"
    results = {
        "machine": {
            "processor": processor(),
            "cores_allowed": len(os.sched_getaffinity(0)),
            "load_average": round(os.getloadavg()[0], 2),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        },
        "engines": {name: environment for name, (_, environment) in runnable.items()},
        "absent": absent,
        "settings": {
            "repeats": options.repeats,
            "max_seconds_per_pass": options.max_seconds,
            "timeout_s": options.timeout,
            "memory_limit_gb": options.memory_gb,
            "cases_compiled_together": options.together,
        },
        "rows": [],
    }
    run(options, runnable, results, path)
    splat_report.publish(results, path)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    ours = [name for name in engines.BACKENDS if name != "reference"]
    parser.add_argument("--scenes", nargs="+", default=splat_cases.SCENES)
    parser.add_argument(
        "--sizes", nargs="+", metavar="GAUSSIANSxPIXELS", help="default: a choice of some minutes"
    )
    parser.add_argument("--batches", nargs="+", type=int, metavar="CAMERAS")
    parser.add_argument("--backends", nargs="*", default=ours, choices=ours)
    parser.add_argument("--peers", nargs="*", default=splat_cases.PEERS, choices=splat_cases.PEERS)
    parser.add_argument("--peer-python", help="interpreter that has the peers; default: this one")
    parser.add_argument("--repeats", type=int, default=15, help="calls timed per pass")
    parser.add_argument(
        "--max-seconds", type=float, default=1.5, help="fewer repeats, at least 3, beyond this"
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds after which a worker is ended"
    )
    parser.add_argument(
        "--memory-gb",
        type=float,
        default=splat_process.available_gb(0.7),
        help="what a worker on a CPU may take; default: 70 %% of what is free",
    )
    parser.add_argument(
        "--together",
        type=int,
        default=0,
        metavar="CASES",
        help="let all engines compile so many cases side by side before they are timed in turn; "
        "default: one process at a time",
    )
    parser.add_argument("--budget", type=float, help="start no case after so many seconds")
    parser.add_argument("--out", type=pathlib.Path, help="JSON to write, or to read with --table")
    parser.add_argument("--table", action="store_true", help="only print and plot what was run")
    return parser.parse_args(arguments)


def probe(options: argparse.Namespace) -> tuple[dict[str, tuple[str, dict]], dict[str, str]]:
    """Ask which engines run here.

    Returns:
        Interpreter and environment of those that do, by name; and why the others do not.
    """
    names = (*options.backends, *options.peers)
    pythons = [splat_process.interpreter(name, options.peer_python) for name in names]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = list(pool.map(splat_process.ask, pythons, names))
    runnable, absent = {}, {}
    for name, python, answer in zip(names, pythons, answers, strict=True):
        if "environment" in answer:
            runnable[name] = (python, answer["environment"])
        else:
            absent[name] = answer["why"]
    return runnable, absent


def run(options, runnable, results: dict[str, Any], path: pathlib.Path) -> None:
    """Time every engine on every case; results are written after each group of cases."""
    cases = splat_cases.cases(options.scenes, options.sizes, options.batches)
    done, total, began = 0, len(cases) * len(runnable), time.monotonic()
    size = max(options.together, 1)
    for start in range(0, len(cases), size):
        if options.budget is not None and time.monotonic() - began > options.budget:
            print(f"the budget is spent: {len(cases) - start} cases are left out")
            return
        group = cases[start : start + size]
        with tempfile.TemporaryDirectory() as name:
            folders = [pathlib.Path(name) / str(nth) for nth in range(len(group))]
            rows: list[list[dict[str, Any]]] = [[] for _ in group]
            for nth, row in measure(group, folders, runnable, results["rows"], options):
                rows[nth].append(row)
                done += 1
                gone = time.monotonic() - began
                left = gone / done * (total - done)
                clock = f"[{done}/{total}, {gone:.0f} s gone, about {left:.0f} s left]"
                line = f"{clock} {row['engine']} {group[nth]}: {splat_report.brief(row)}"
                print(line + splat_report.remarks(row), flush=True)
            for folder, of_case in zip(folders, rows, strict=True):
                splat_report.gate(of_case, folder, ours=options.backends)
        for row in (row for of_case in rows for row in of_case):
            if row["status"] == "gate failed":
                print(f"    {row['engine']} does not count: {row['message']}")
            results["rows"].append(row)
        splat_report.write(results, path)


def measure(
    group: list[Case], folders: list[pathlib.Path], runnable, known: list[dict[str, Any]], options
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Time every engine on a group of cases; give the place of the case and the row."""
    jobs, places = [], []
    for nth, (case, folder) in enumerate(zip(group, folders, strict=True)):
        folder.mkdir()
        splat_cases.save(case, folder / "inputs.npz")
        for engine, (python, environment) in runnable.items():
            told = {**splat_report.describe_case(case), "engine": engine}
            skipped = hopeless(case, engine, known, options.timeout)
            if skipped:
                yield nth, told | skipped
            else:
                jobs.append(Job(python, engine, folder, environment["platform"]))
                places.append((nth, told))
    if options.together:
        measured = splat_process.measure_together(jobs, options)
    else:
        measured = (splat_process.measure(job, options) for job in jobs)
    for (nth, told), row in zip(places, measured, strict=True):
        yield nth, told | row


def hopeless(
    case: Case, engine: str, rows: list[dict[str, Any]], timeout: float
) -> dict[str, str] | None:
    """Skip what is larger than something the engine failed at, or what would take too long.

    The time is taken to grow as the number of Gaussians.
    """
    for row in rows:
        smaller = Case(*(row[name] for name in ("scene", "gaussians", "pixels", "batch")))
        if row["engine"] != engine or not smaller.at_most(case):
            continue
        if row["status"] in ("out of memory", "timed out"):
            return {"status": "skipped", "message": f"{row['status']} at {smaller}"}
        calls_ms = splat_worker.MIN_REPEATS * row.get("forward", {}).get("median_ms", 0)
        seconds = calls_ms / 1e3 * case.gaussians / smaller.gaussians
        if seconds > timeout:
            message = f"would take more than {seconds:.0f} s, by {smaller}"
            return {"status": "skipped", "message": message}
    return None


if __name__ == "__main__":
    main()
