"""The benchmark of a step through time: what it fits, what it leaves out, how it goes on."""

import json

import pytest

from experiments.benchmarks import sequence


def test_growth_of_memory_that_is_known():
    """The square root of the number of frames; and a line, three pictures for every frame."""
    rows = [
        {"side": 32, "rematerialise": True, "frames": t, "temporary_gb": 0.5 * t**0.5}
        for t in sequence.FRAMES
    ]
    rows += [
        {"side": 64, "rematerialise": False, "frames": t, "temporary_gb": 1 + 3e-9 * 12 * 64**2 * t}
        for t in sequence.FRAMES
    ]
    rows.append({"side": 64, "rematerialise": True, "frames": 8, "status": "failed"})
    root, line = sequence.growth(rows)
    assert (root["side"], root["exponent"]) == (32, 0.5)
    assert (line["side"], line["rematerialise"], line["of_pictures"]) == (64, False, 3.0)
    assert line["frame_mb"] == pytest.approx(3e-6 * 12 * 64**2, rel=5e-3)


def test_cases_that_do_not_fit_are_planned_only(tmp_path, monkeypatch):
    """And a second run measures nothing again."""
    asked = []

    def run_apart(module, arguments, timeout, settings):
        kind, case = arguments[0], json.loads(arguments[1])
        asked.append((kind, case["frames"], case["rematerialise"]))
        if kind == "--take":
            return {"status": "ok", "step_s": 1.0}
        if case["frames"] == 16:
            return {"status": "failed", "message": "no"}
        gigabytes = case["frames"] / 4 if case["rematerialise"] else 10.0 * case["frames"]
        return {"status": "ok", "temporary_gb": gigabytes, "argument_gb": 0.0}

    monkeypatch.setattr(sequence, "run_apart", run_apart)
    monkeypatch.setattr(sequence, "available_bytes", lambda: 20e9)
    monkeypatch.setattr(sequence, "draw", lambda rows, path: None)
    out = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["sequence", "--sides", "64", "--out", str(out)])
    sequence.main()
    rows = json.loads(out.read_text())["rows"]
    told = {(row["frames"], row["rematerialise"]): row["status"] for row in rows}
    assert told == {
        (8, True): "ok",
        (16, True): "failed",
        (32, True): "ok",
        (64, True): "not run",
        (8, False): "not run",
        (16, False): "failed",
        (32, False): "not run",
        (64, False): "not run",
    }
    assert [case[1] for case in asked if case[0] == "--take"] == [8, 32]
    count = len(asked)
    sequence.main()
    assert len(asked) == count
