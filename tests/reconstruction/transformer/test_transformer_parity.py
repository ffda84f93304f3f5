"""Our functions reproduce what was recorded from LHM's own modules; the comparison can fail.

Cases and tolerances are those of `python -m experiments.parity`.
"""

import dataclasses
import json

import numpy as np
import pytest

from experiments import parity
from experiments.parity_cases import CASES, find

RECORDINGS = parity.names(parity.DATA)


@pytest.mark.skipif(not RECORDINGS, reason="the reference outputs are not here")
@pytest.mark.parametrize("kind", parity.RTOL)
@pytest.mark.parametrize("name", [name for name in RECORDINGS if find(name)])
def test_recording(name, kind):
    case, recording = find(name), parity.load(parity.DATA, name)
    assert case is not None
    found = parity.compare(recording, case, kind)
    if found is None:
        assert kind == "float64" and (case.only32 or not recording.outputs[kind])
        return
    assert found.excess <= 1, found


def made(name, weights, inputs, outputs):
    return parity.Recording(name, {}, weights, inputs, {"float32": outputs, "float64": {}})


@pytest.fixture
def root_mean_square():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(3, 16)), rng.normal(size=16)
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight
    return made("rms_norm", {"weight": weight}, {"x": x}, {"y": y})


def test_errors_are_measured(root_mean_square):
    case = CASES["rms_norm"]
    found = parity.compare(root_mean_square, case, "float32")
    assert found is not None and found.excess < 1 and found.worst == "y"
    assert parity.compare(root_mean_square, case, "float64") is None
    y = np.array(root_mean_square.outputs["float32"]["y"])
    largest = np.abs(y).max()
    y[1, 2] += 0.001
    wrong = dataclasses.replace(root_mean_square, outputs={"float32": {"y": y}})
    found = parity.compare(wrong, case, "float32")
    assert found is not None
    assert found.absolute == pytest.approx(0.001, rel=0.01)
    assert found.relative == pytest.approx(0.001 / largest, rel=0.1)
    assert found.excess == pytest.approx(0.001 / (2e-5 + 1e-4 * abs(y[1, 2])), rel=0.02)
    # Under the name of tokens of small variance, a thousandth of the largest value passes.
    small = dataclasses.replace(wrong, name="rms_norm_small_variance")
    found = parity.compare(small, case, "float32")
    assert found is not None and found.excess == pytest.approx(1 / largest, rel=0.1)


def test_what_is_not_reproduced_is_an_error(root_mean_square):
    outputs = dict(root_mean_square.outputs["float32"])
    for wrong in (outputs | {"z": np.ones(3)}, {"y": outputs["y"][:2]}):
        other = dataclasses.replace(root_mean_square, outputs={"float32": wrong})
        with pytest.raises(ValueError, match="is not reproduced in the shape"):
            parity.compare(other, CASES["rms_norm"], "float32")


def test_nan_never_passes(root_mean_square):
    inputs = {"x": np.full((3, 16), np.nan)}
    found = parity.compare(
        dataclasses.replace(root_mean_square, inputs=inputs), CASES["rms_norm"], "float32"
    )
    assert found is not None and found.excess == np.inf


@pytest.mark.parametrize("error", [0.0, 0.01])
def test_command(tmp_path, monkeypatch, capsys, root_mean_square, error):
    recording = root_mean_square
    arrays = {
        "w/weight": recording.weights["weight"],
        "in/x": recording.inputs["x"],
        "out/y": recording.outputs["float32"]["y"] + error,
    }
    np.savez(tmp_path / "rms_norm.npz", allow_pickle=False, **arrays)
    np.savez(tmp_path / "something_else.npz", y=np.ones(2))
    entry = {"name": "rms_norm", "config": {"dim": 16, "eps": 1e-6}}
    (tmp_path / "manifest.json").write_text(json.dumps({"fixtures": [entry]}))
    result = tmp_path / "parity.json"
    command = ["parity", "--data", str(tmp_path), "--out", str(result)]
    monkeypatch.setattr("sys.argv", command)
    assert parity.main() == (error > 0)
    said = capsys.readouterr().out
    assert ("FAIL" in said) == (error > 0) and "not compared here: something_else" in said
    (row,) = json.loads(result.read_text())["rows"]
    assert row["recording"] == "rms_norm" and row["passed"] == (error == 0)
    assert row["float32"]["atol"] == 2e-5
    monkeypatch.setattr("sys.argv", ["parity", "--data", str(tmp_path / "none")])
    assert parity.main() == 2
