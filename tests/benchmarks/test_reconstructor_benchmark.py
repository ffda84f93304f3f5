"""The transformer's benchmark: what it measures, what it skips, and what it writes."""

import dataclasses
import json

import pytest

from experiments.benchmarks import apart, reconstructor
from jaxavatar.reconstruction.transformer import CONFIGS
from jaxavatar.reconstruction.transformer.config import DinoConfig, TransformerConfig, VitConfig

SMALL = TransformerConfig(
    points=16,
    layers=1,
    width=8,
    heads=2,
    body=VitConfig((32, 16), 16, 0, 8, 1, 2),
    head=DinoConfig(14, 14, 8, 1, 2, 1, 3, (0,)),
    hand=VitConfig((16, 16), 8, 0, 8, 1, 2),
    decoder_width=8,
    hand_branch=True,
    weight_decoder=True,
)


@pytest.mark.parametrize("placed", [False, True])
def test_small_models_run_several_times(placed):
    row = reconstructor.measure(dataclasses.replace(SMALL, placed=placed), 16, 24, 3)
    assert row["finite"] and row["runs"] == 3
    assert row["gaussians"] == (24 if placed else 16)
    assert 0 < row["run_s"] < 60 and row["peak_gb"] > 0.05


def test_one_process_each(tmp_path, monkeypatch, capsys):
    """A result, a failure and a model that does not fit are all told apart in the file."""
    calls = []

    class Done:
        def __init__(self, code, out, err):
            self.returncode, self.stdout, self.stderr = code, out, err

    def run(command, **_):
        calls.append(command[3])
        if command[3] == "mini":
            return Done(1, "", "noise\nMemoryError: too much")
        return Done(0, 'noise\n{"run_s": 1.5}\n', "compiled")

    monkeypatch.setattr(apart.subprocess, "run", run)
    limit = reconstructor.needed_bytes(CONFIGS["1b"]) - 1
    monkeypatch.setattr(reconstructor, "available_bytes", lambda: limit)
    out = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["reconstructor", "all", "--out", str(out)])
    reconstructor.main()
    result = json.loads(out.read_text())
    rows = {row["config"]: row for row in result["rows"]}
    assert set(rows) == set(CONFIGS)
    assert result["machine"]["cores"] >= 1 and result["machine"]["jax"]
    assert rows["tiny"] | {"status": "ok", "run_s": 1.5} == rows["tiny"]
    assert rows["mini"]["status"] == "failed" and "too much" in rows["mini"]["message"]
    assert rows["1b"]["status"] == "skipped" and "GB are free" in rows["1b"]["message"]
    assert calls == ["tiny", "mini", "500m", "hand++"]
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
