"""The splatter's benchmark: what counts, what is skipped, and one run from end to end."""

import argparse
import json
import math
import sys
import time

import numpy as np
import pytest
from pallas_splat import available

from experiments.benchmarks import splat, splat_cases, splat_process, splat_report, splat_worker
from experiments.benchmarks.splat_cases import Case
from experiments.benchmarks.splat_process import Job

SMALL = Case("avatar", 1000, 64, 1)


def row(engine="native", case=SMALL, status="ok", forward=None):
    passes = {} if forward is None else {"forward": {"median_ms": forward, "others_cores": 0.5}}
    return {**splat_report.describe_case(case), "engine": engine, "status": status, **passes}


@pytest.mark.parametrize("mode", [[], ["--together", "2", "--budget", "1000"]])
def test_one_run_from_end_to_end(tmp_path, capsys, mode):
    backend = "native" if available("native") else "xla"
    out = tmp_path / "splat.json"
    options = ["--scenes", "avatar", "--sizes", "60x24", "--batches", "2", "--repeats", "2", *mode]
    splat.main([*options, "--backends", backend, "--peers", "splax", "--out", str(out)])
    results = json.loads(out.read_text())
    (measured,) = results["rows"]
    assert measured["status"] == "ok"
    for name in splat_report.PASSES:
        times = measured[name]
        assert 0 < times["p10_ms"] <= times["median_ms"] <= times["p90_ms"]
        assert times["compile_s"] > 0 and times["repeats"] == 2
    assert "splax" in results["absent"]
    printed = capsys.readouterr().out
    assert "splax: skipped: " in printed
    assert "| avatar | 0.06k @ 24 | 2 |" in printed
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".png"] == ["splat.json"]


def test_inputs_are_the_same_every_time_and_cameras_differ():
    first, second = (splat_cases.arrays(Case("clustered", 50, 32, 3)) for _ in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert first["viewmats"].shape == (3, 4, 4)
    for viewmat in first["viewmats"]:
        np.testing.assert_allclose(viewmat[:3, :3] @ viewmat[:3, :3].T, np.eye(3), atol=1e-6)
    # Every camera sees the Gaussians' middle at the same depth.
    depths = first["viewmats"][:, 2, :3] @ first["means"].mean(0) + first["viewmats"][:, 2, 3]
    np.testing.assert_allclose(depths, depths[0], rtol=0.02)
    assert np.abs(first["viewmats"][1] - first["viewmats"][0]).max() > 0.01


@pytest.mark.parametrize(("error", "counts"), [(1e-4, True), (0.01, False), (math.nan, False)])
def test_an_image_that_differs_does_not_count(tmp_path, error, counts):
    image = np.full((1, 4, 4, 3), 0.5)
    np.save(tmp_path / "image-native.npy", image)
    np.save(tmp_path / "image-splax.npy", image + error)
    rows = [row(forward=1.0), row("splax", forward=2.0)]
    splat_report.gate(rows, tmp_path, ["native"])
    assert splat_report.time_of(rows[0], "forward") == 1.0
    assert splat_report.time_of(rows[1], "forward") == (2.0 if counts else None)
    if error == 1e-4:
        assert rows[1]["psnr_db"] == pytest.approx(80)


def test_nothing_counts_without_an_image_of_ours(tmp_path):
    np.save(tmp_path / "image-splax.npy", np.zeros((1, 4, 4, 3)))
    rows = [row(status="failed"), row("splax", forward=2.0)]
    splat_report.gate(rows, tmp_path, ["native"])
    assert splat_report.time_of(rows[1], "forward") is None


def test_growth_is_the_slope_of_logarithms():
    sizes = (1000, 4000, 16000)
    rows = [row(case=Case("avatar", n, 64, 1), forward=0.01 * n**0.8) for n in sizes]
    (fit,) = splat_report.growth(rows)
    assert fit["forward"] == pytest.approx(0.8)
    assert "forward_backward" not in fit
    assert splat_report.growth(rows[:2]) == []


def test_a_machine_that_is_not_quiet_is_told():
    assert "0.5 cores" in splat_report.disturbed(row(forward=1.0))
    assert splat_report.disturbed(row(status="timed out")) == ""


def test_larger_than_what_failed_is_skipped():
    rows = [row(status="timed out"), row("xla", forward=1.0)]
    larger = Case("avatar", 4000, 64, 1)
    assert splat.hopeless(larger, "native", rows, 60)
    assert not splat.hopeless(larger, "xla", rows, 60)
    assert not splat.hopeless(Case("avatar", 4000, 32, 1), "native", rows, 60)
    assert not splat.hopeless(Case("clustered", 4000, 64, 1), "native", rows, 60)


def test_what_would_take_too_long_is_skipped():
    rows = [row(forward=10_000.0)]
    assert splat.hopeless(Case("avatar", 2500, 64, 1), "native", rows, 60)
    assert not splat.hopeless(Case("avatar", 1500, 64, 1), "native", rows, 60)


def test_calls_are_timed_until_it_is_enough():
    calls = []
    times, last = splat_worker.repeat(lambda: calls.append(0) or len(calls), 5, 10.0)
    assert times["repeats"] == 5
    assert last == len(calls) == 6  # the first one warms up
    assert times["others_cores"] is None  # over before the system's clock ticks
    calls.clear()
    times, _ = splat_worker.repeat(lambda: calls.append(0), 50, 0.0)
    assert times["repeats"] == len(calls) == splat_worker.MIN_REPEATS


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_work_of_others_is_told_apart_from_our_own(monkeypatch, share):
    def busy():  # as if others worked a share of the time
        return time.process_time() + share * time.perf_counter()

    monkeypatch.setattr(splat_worker, "cores_busy_s", busy)

    def work():
        sum(range(100_000))
        time.sleep(0.1)

    times, _ = splat_worker.repeat(work, 3, 10.0)
    assert times["others_cores"] == pytest.approx(share, abs=0.02)


def test_what_is_over_too_soon_says_nothing_of_others():
    soon = row(forward=1.0)
    soon["forward"]["others_cores"] = None
    assert splat_report.disturbed(soon) == ""


def test_memory_that_a_call_takes_is_seen():
    before = splat_worker.resident_mb(reset=True)
    np.ones(10_000_000).sum()  # 80 MB
    assert 70 < splat_worker.resident_mb(peak=True) - before < 120


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while allocating"), "out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (ValueError("wrong\nshape"), "failed"),
    ],
)
def test_a_worker_says_why_it_failed(tmp_path, capsys, error, status):
    class Broken:
        def environment(self):
            raise error

    splat_worker.attempt(Broken(), argparse.Namespace(folder=tmp_path))  # pyright: ignore
    said = json.loads(capsys.readouterr().out)
    assert said["status"] == status
    assert said["message"].startswith(type(error).__name__)


def test_a_worker_that_dies_says_so(tmp_path):
    backend = "native" if available("native") else "xla"
    splat_cases.save(SMALL, tmp_path / "inputs.npz")
    arguments = ["--sizes", "1000x64", "--repeats", "1", "--memory-gb", "0.05"]
    options = splat.parse(arguments)
    job = Job(sys.executable, backend, tmp_path, "cpu")
    starved = splat_process.measure(job, options)
    assert starved["status"] in ("out of memory", "failed")  # it may die before Python notices
    assert starved["message"]
    wrong = splat_process.measure(job._replace(engine="no such engine", device="gpu"), options)
    assert wrong["status"] == "failed"
    assert "no such engine" in wrong["message"]


def test_a_worker_that_takes_too_long_is_ended(tmp_path):
    splat_cases.save(SMALL, tmp_path / "inputs.npz")
    options = splat.parse(["--timeout", "0.01"])
    job = Job(sys.executable, "xla", tmp_path, "cpu")
    ended = splat_process.measure(job, options)
    assert ended == {"status": "timed out", "message": "no answer in 0 s"}
    assert (
        list(splat_process.measure_together([job, job], options))
        == [{"status": "timed out", "message": "not ready after 0 s"}] * 2
    )


def test_sizes_are_numbers():
    assert splat_cases.cases(["avatar"], ["20x8", "10x8"], None) == [
        Case("avatar", 10, 8, 1),
        Case("avatar", 20, 8, 1),
    ]
    assert {case.batch for case in splat_cases.cases(["avatar"], None, [8])} == {8}
    with pytest.raises(ValueError, match="10k"):
        splat_cases.cases(["avatar"], ["10k"], None)
