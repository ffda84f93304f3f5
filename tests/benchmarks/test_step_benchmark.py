"""The benchmark of a training step: which cases it has, and what it fits."""

import json

import pytest

from experiments.benchmarks import step


def test_each_size_grows_alone():
    found = step.cases()
    assert found[0] == step.BASE and len(found) == 1 + 2 * len(step.BASE)
    for case in found[1:]:
        assert sum(case[name] != step.BASE[name] for name in step.BASE) == 1
    sides = sorted(case["side"] for case in found if case["side"] != step.BASE["side"])
    assert [(side / step.BASE["side"]) ** 2 for side in sides] == pytest.approx([2, 4], rel=0.02)


def test_powers_that_are_known_are_found(tmp_path, monkeypatch):
    """And a second run measures nothing again."""
    powers = {"gaussians": 1.0, "frames": 0.5, "side": 2 * 0.75, "clips": 0.0}
    made = []

    class Known:
        def __init__(self, **case):
            self.case = case
            made.append(case)

        def time_stages(self):
            return {"step": 1.0}

        def time_step(self):
            seconds = 1.0
            for name, power in powers.items():
                seconds *= (self.case[name] / step.BASE[name]) ** power
            return seconds

    monkeypatch.setattr(step, "Case", Known)
    monkeypatch.setattr(step, "keep_compiled_code", lambda: None)
    out = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["step", "--out", str(out)])
    step.main()
    fitted = json.loads(out.read_text())["exponents"]
    expected = {name: power / (2 if name == "side" else 1) for name, power in powers.items()}
    assert fitted == pytest.approx(expected, abs=2e-3)
    count = len(made)
    step.main()
    assert len(made) == count
