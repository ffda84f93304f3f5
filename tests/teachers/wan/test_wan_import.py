"""`jaxavatar weights import wan`: licence, all tensors accounted for, a teacher comes out."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxavatar import cli
from jaxavatar.errors import InputError
from jaxavatar.teachers.wan.config import CONFIGS, WanConfig
from jaxavatar.teachers.wan.params_file import load_teacher


@pytest.fixture
def files(tmp_path, monkeypatch, oracle, configs):
    """Let `--config 1.3b` mean the oracle's sizes, and lay its weights out as released."""
    small = WanConfig(transformer=configs["heard"], autoencoder=configs["autoencoder"])
    monkeypatch.setitem(CONFIGS, "1.3b", small)
    cases = oracle.load()
    heard, coded = (oracle.weights(cases[name][0], 0) for name in ("heard", "autoencoder"))
    base = {name: value for name, value in heard.items() if not name.startswith("audio_")}
    adapter = {name: value for name, value in heard.items() if name.startswith("audio_")}
    adapter["blocks.1.ffn.net.0.proj.lora_A.default.weight"] = np.full((2, 24), 0.5, np.float32)
    adapter["blocks.1.ffn.net.0.proj.lora_B.default.weight"] = np.ones((32, 2), np.float32)
    (tmp_path / "shards").mkdir()
    names = sorted(base)
    for number in (0, 1):
        part = {name: base[name] for name in names[number::2]}
        safetensors.numpy.save_file(part, tmp_path / "shards" / f"{number}.safetensors")
    safetensors.numpy.save_file(adapter, tmp_path / "omni.safetensors")
    safetensors.numpy.save_file(coded, tmp_path / "vae.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"lora_alpha": 6.0}))
    return tmp_path, heard, coded


def command(folder, *more):
    return [
        *("weights", "import", "wan", str(folder / "shards"), "--config", "1.3b"),
        *("--adapter", str(folder / "omni.safetensors")),
        *("--autoencoder", str(folder / "vae.safetensors"), *more),
    ]


def test_import(files, imported, capsys):
    folder, heard, coded = files
    out = folder / "teacher.safetensors"
    assert not cli.main(command(folder, "--out", str(out)))
    shown = capsys.readouterr()
    assert shown.out.strip() == str(out) and "Apache-2.0" in shown.err
    account = json.loads((folder / "teacher.wan.json").read_text())
    assert len(account["used"]) == len(heard) + len(coded) + 2
    assert not account["unknown"] and not account["missing"]
    teacher, params = load_teacher(out)
    assert teacher.config == CONFIGS["1.3b"]
    expected = imported("autoencoder", coded) | {"transformer": imported("heard", heard)}
    up = expected["transformer"]["block1"]["feed_forward"]["up"]
    up["kernel"] = up["kernel"] + 6.0 / 2 * np.full((24, 32), 1.0)
    expected["null_text"] = np.zeros((12, 16))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
    _, half = load_teacher(out, half=True)
    assert half["transformer"]["out"]["kernel"].dtype == jnp.bfloat16


def test_what_is_wrong_is_said(files, capsys):
    folder, *_ = files
    assert cli.main(command(folder)) != 0
    assert "--autoencoder and --out" in capsys.readouterr().err
    wrong = dataclasses.replace(CONFIGS["1.3b"].transformer, layers=8)
    CONFIGS["1.3b"] = dataclasses.replace(CONFIGS["1.3b"], transformer=wrong)
    out = folder / "teacher.safetensors"
    assert cli.main(command(folder, "--out", str(out))) != 0
    assert "missing parameters" in capsys.readouterr().err and not out.exists()
    with pytest.raises(InputError, match="holds no teacher"):
        load_teacher(folder / "vae.safetensors")
