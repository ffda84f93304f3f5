"""All hidden states of wav2vec 2.0 and Whisper against transformers, through the import's rules."""

import importlib.util
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxavatar.speech import wav2vec2, whisper
from jaxavatar.speech.encoders import teacher_features
from jaxavatar.speech.released import read_released
from jaxavatar.speech.shapes import parameter_shapes

HELPERS = pathlib.Path(__file__).parents[1] / "helpers"
# Float32 against float32, of order one after seven convolutions, norms and two blocks.
TOLERANCE = {"rtol": 2e-5, "atol": 1e-4}
_QUICK: Any = {"xla_backend_optimization_level": 0}  # only compiles sooner


def _oracle():
    spec = importlib.util.spec_from_file_location("speech_oracle", HELPERS / "speech_oracle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ORACLE = _oracle()


@pytest.fixture(scope="module", params=["recorded", "live"])
def cases(request):
    """What transformers computes: recorded, or now."""
    if request.param == "recorded":
        return ORACLE.load()
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return ORACLE.compute()


@pytest.fixture
def imported(tmp_path):
    """Write a checkpoint with the oracle's weights and its config.json, and read it."""

    def read(name, shapes):
        config = ORACLE.CONFIGS[name]
        path = tmp_path / "model.safetensors"
        safetensors.numpy.save_file(ORACLE.weights(shapes), path)
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_released(path, config["model_type"])

    return read


@pytest.mark.parametrize("name", ["group", "layer"])
def test_wav2vec2(cases, imported, name):
    shapes, expected = cases[name]
    model, report = imported(name, shapes)
    without_effect = [n for n in shapes if n.endswith("k_proj.bias")] + ["masked_spec_embed"]
    assert sorted(report.skipped) == sorted(without_effect)
    assert not report.unknown and not report.missing
    samples = ORACLE.inputs()["samples"]
    encode = jax.jit(wav2vec2.Encoder(model.config).apply, compiler_options=_QUICK)
    states = encode({"params": model.params}, samples)
    assert len(states) == ORACLE.LAYERS + 1
    for number, state in enumerate(states):
        np.testing.assert_allclose(state, expected[f"state{number}"], **TOLERANCE)


@pytest.mark.parametrize("name", ["group", "layer"])
def test_the_video_teachers_condition(cases, imported, name):
    shapes, expected = cases[name]
    model, _ = imported(name, shapes)
    samples = ORACLE.inputs()["samples"]
    apply = wav2vec2.Encoder(model.config).apply
    encode = jax.jit(apply, static_argnums=3, compiler_options=_QUICK)
    states = encode({"params": model.params}, samples, None, ORACLE.FRAMES)
    chosen = teacher_features(model)
    assert chosen.resample and not chosen.normed
    condition = jnp.concatenate([states[layer] for layer in chosen.layers], -1)
    assert condition.shape == (2, ORACLE.FRAMES, (ORACLE.LAYERS + 2) * ORACLE.WIDTH)
    np.testing.assert_allclose(condition, expected["condition"], **TOLERANCE)


def test_whisper(cases, imported):
    shapes, expected = cases["whisper"]
    model, report = imported("whisper", shapes)
    assert not report.unknown and not report.missing
    given = ORACLE.inputs()
    encode = jax.jit(whisper.Encoder(model.config).apply, compiler_options=_QUICK)
    states = encode({"params": model.encoder}, given["mel"])
    assert len(states) == ORACLE.LAYERS + 1
    for number, state in enumerate(states):
        np.testing.assert_allclose(state, expected[f"state{number}"], **TOLERANCE)

    def read(decoder: whisper.Decoder):
        tokens = jnp.asarray(given["tokens"])
        empty = decoder.silence(tokens.shape[1], (len(tokens),))
        read, _ = decoder(tokens, jnp.array(0), empty, decoder.hear(states[-1]))
        return decoder.logits(read)

    decoder = whisper.Decoder(model.config)
    decode = jax.jit(lambda params: decoder.apply(params, method=read), compiler_options=_QUICK)
    logits = decode({"params": model.decoder})
    scale = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(logits / scale, expected["logits"] / scale, **TOLERANCE)


def test_sizes_of_released_models():
    """Parameter counts that the papers state, in millions, without making any."""
    stated = {
        wav2vec2.CONFIGS["base"]: 95,
        wav2vec2.CONFIGS["large-lv60"]: 317,
        whisper.CONFIGS["tiny"]: 39,
        whisper.CONFIGS["small"]: 244,
    }
    for config, millions in stated.items():
        shapes = parameter_shapes(config).values()
        assert sum(int(np.prod(s)) for s in shapes) / 1e6 == pytest.approx(millions, rel=0.05)
