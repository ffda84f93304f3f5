"""A run goes on after whatever ends it: kill -9, SIGTERM, other devices."""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxavatar.errors import InputError
from jaxavatar.training import DivergedError, PreemptedError

TOY = pathlib.Path(__file__).parents[1] / "helpers" / "toy_training.py"
STEPS = 40

ON_OTHER_DEVICES = """
import json, pathlib, runpy, sys
import jax, numpy as np
toy, folder, expected, steps = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
assert len(jax.devices()) == 4
state, _ = runpy.run_path(toy)["run"](folder, steps)
assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(state))
paths = folder / "metrics.jsonl", expected
got, want = ([json.loads(line) for line in open(path)] for path in paths)
assert [line["step"] for line in got] == [line["step"] for line in want]
losses = ([line["loss"] for line in lines] for lines in (got, want))
np.testing.assert_allclose(*losses, rtol=1e-5)
print("same")
"""


@pytest.fixture(scope="module")
def toy():
    spec = importlib.util.spec_from_file_location("toy_training", TOY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """The folder and the last state of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, toy.run(folder, STEPS)[0]


def same_run(folder, state, whole):
    assert (folder / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(whole[1]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that was killed where it happened to be, past its sixth step."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(TOY), str(folder), "1000000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "checkpoints" / "6").exists():
            assert running.poll() is None
            time.sleep(0.001)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert last < STEPS, "the test's machine is too slow to kill the run in time"
    # As if it had been killed while it wrote a line.
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    return folder


def test_a_killed_run_goes_on_bit_for_bit(toy, whole, killed, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    state, compiled = toy.run(folder, STEPS)
    same_run(folder, state, whole)
    assert compiled._cache_size() == 1  # a restored state compiles nothing anew


def test_a_killed_run_goes_on_with_more_devices(whole, killed, tmp_path, same_on_devices):
    folder = tmp_path / "run"
    shutil.copytree(killed, folder)
    program = tmp_path / "program.py"
    program.write_text(ON_OTHER_DEVICES)
    same_on_devices(4, program, str(TOY), folder, whole[0] / "metrics.jsonl", str(STEPS))


def test_a_run_that_is_asked_to_end_saves_first(toy, whole, tmp_path, capsys, monkeypatch):
    batch_of = toy.batch_of

    def asked(number):
        if number == 16:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_of(number)

    before = signal.getsignal(signal.SIGTERM)
    options = {"report_every": 3, "save_every": 12}  # reports at 15 and 18, means of three steps
    expected, _ = toy.run(tmp_path / "whole", 24, **options)
    monkeypatch.setattr(toy, "batch_of", asked)
    with pytest.raises(PreemptedError) as stopped:
        toy.run(tmp_path / "parts", 24, **options)
    assert stopped.value.code == 143
    assert "the state of step 17 is saved" in capsys.readouterr().err
    assert (tmp_path / "parts" / "checkpoints" / "17").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(toy, "batch_of", batch_of)
    state, _ = toy.run(tmp_path / "parts", 24, **options)
    same_run(tmp_path / "parts", state, (tmp_path / "whole", expected))


def test_the_best_state_is_told_by_a_metric_that_exists(toy, tmp_path):
    with pytest.raises(InputError, match=r"no metric 'los' .* choose among loss"):
        toy.run(tmp_path, 4, best="los")
    toy.run(tmp_path, 8, best="loss", keep=1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    saved = {line["step"]: line["loss"] for line in lines if line["step"] % 2 == 0}
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {min(saved, key=saved.__getitem__), 8}


def test_after_nan_the_last_good_state_is_there(toy, tmp_path, monkeypatch):
    batch_of = toy.batch_of

    def spoilt(number):
        x, y = batch_of(number)
        return x, y * (np.nan if number == 7 else 1)

    monkeypatch.setattr(toy, "batch_of", spoilt)
    with pytest.raises(
        DivergedError, match=r"loss .* by step 8;.* from the state of step 6, which"
    ):
        toy.run(tmp_path, 12)
    monkeypatch.setattr(toy, "batch_of", batch_of)
    state, _ = toy.run(tmp_path, 12)
    assert int(state.step) == 12
