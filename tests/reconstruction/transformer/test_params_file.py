"""Parameters on disk: they come back as they were, in part too; bad files are said so."""

import dataclasses
import json
import tracemalloc

import flax.traverse_util
import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxavatar.errors import InputError
from jaxavatar.reconstruction.transformer import CONFIGS, TransformerConfig
from jaxavatar.reconstruction.transformer.config import DinoConfig, VitConfig
from jaxavatar.reconstruction.transformer.params_file import (
    config_from_fields,
    load_params,
    open_params,
    save_params,
)
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.weights.tensor_file import write_tensors

SMALL = TransformerConfig(
    points=8,
    layers=1,
    width=8,
    heads=2,
    body=VitConfig((32, 16), 16, 0, 8, 1, 2, (0.1, 0.2, 1 / 3), (0.5, 0.25, 0.7)),
    head=DinoConfig(14, 14, 8, 1, 2, 1, 3, (0,)),
    decoder_width=8,
    sh_degree=1,
)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    flat = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in parameter_shapes(SMALL).items()
    }
    return flax.traverse_util.unflatten_dict(flat, sep="/")


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_survive_json(name):
    fields = json.loads(json.dumps(dataclasses.asdict(CONFIGS[name])))
    assert config_from_fields(fields) == CONFIGS[name]


def test_whole_and_part(tmp_path, params):
    path = tmp_path / "model.safetensors"
    for tree in (params, {"decoder": params["decoder"]}):
        save_params(path, tree, SMALL, info={"source": "a test", "steps": 3})
        loaded, config, info = load_params(path)
        assert config == SMALL and info == {"source": "a test", "steps": 3}
        jax.tree.map(np.testing.assert_array_equal, loaded, tree)
    assert safetensors.numpy.load_file(path)["decoder/hidden0/kernel"].dtype == np.float32
    assert not [p for p in tmp_path.iterdir() if p != path]


def test_half(tmp_path, params):
    path = tmp_path / "model.safetensors"
    save_params(path, params, SMALL, half=True)
    loaded, _, _ = load_params(path)
    assert loaded["decoder"]["out"]["bias"].dtype == np.float32
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-4, atol=1e-7), loaded, params
    )
    before = path.read_bytes()
    bias = {"decoder": {"out": {"bias": np.full(8, 1e5, np.float32)}}}
    with pytest.raises(InputError, match="decoder/out/bias holds numbers that are not finite"):
        save_params(path, bias, SMALL, half=True)
    assert path.read_bytes() == before


def test_parts_are_copied_without_reading_them_first(tmp_path, params):
    """What is open can be written elsewhere, or onto itself."""
    path = tmp_path / "model.safetensors"
    save_params(path, params, SMALL)
    stored, config, _ = open_params(path)
    save_params(path, {k: v for k, v in stored.items() if k.startswith("decoder/")}, config)
    loaded, _, _ = load_params(path)
    jax.tree.map(np.testing.assert_array_equal, loaded, {"decoder": params["decoder"]})


def test_writing_holds_one_tensor_at_a_time(tmp_path):
    class Made:
        shape = (1000, 1000)

        def __array__(self, dtype=None, copy=None):
            return np.ones(self.shape, np.float32)

    path = tmp_path / "many.safetensors"
    tracemalloc.start()
    write_tensors(path, {str(k): Made() for k in range(10)}, {}, np.float32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 40e6 > 2 * peak


def changed(**new):
    return lambda metadata: metadata.update(new)


def config_with(**new):
    fields = dataclasses.asdict(SMALL) | new
    return changed(config=json.dumps(fields))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(format="another"), "does not hold parameters of this transformer"),
        (changed(version="2"), "has format 2, this jaxavatar reads up to 1"),
        (changed(config="{"), "are damaged"),
        (changed(info="[]"), "its notes are no dict"),
        (config_with(points="many"), "its points cannot be 'many'"),
        (config_with(wings=2), "unknown field 'wings'"),
        (config_with(precision="float8"), "its precision cannot be 'float8'"),
        (config_with(body={"size": [32, 16]}), "its body lacks a field"),
        (config_with(decoder_width=9), r"decoder/hidden0/bias of shape \(8,\), not \(9,\)"),
        (config_with(heads=0), "are damaged"),
        (config_with(width=9), "are damaged"),
        (config_with(layers=0), "which its config lacks"),
        (lambda metadata: metadata.pop("config"), "are damaged"),
    ],
)
def test_bad_metadata(tmp_path, params, spoil, message):
    path = tmp_path / "model.safetensors"
    save_params(path, params, SMALL)
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    spoil(metadata)
    safetensors.numpy.save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=message):
        load_params(path)


def test_bad_files(tmp_path, params):
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_params(path)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_params(tmp_path)
    for content in (b"", b"PK\x03\x04 and so on, not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a safetensors file"):
            load_params(path)
    save_params(path, params, SMALL)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="not a safetensors file"):
        load_params(path)
    path.write_bytes(whole[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(InputError, match="is not finite"):
        load_params(path)
    with pytest.raises(InputError, match="cannot write"):
        save_params(tmp_path / "model.safetensors" / "inside", params, SMALL)
