"""All hidden states of wav2vec 2.0 and Whisper against transformers, through the import's rules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.speech import wav2vec2, whisper
from jaxavatar.speech.encoders import teacher_features
from jaxavatar.speech.released import read_released
from jaxavatar.speech.shapes import parameter_shapes

# Float32 against float32, of order one after seven convolutions, norms and two blocks.
TOLERANCE: Any = {"rtol": 2e-5, "atol": 1e-4}
_QUICK: Any = {"xla_backend_optimization_level": 0}  # only compiles sooner


@pytest.fixture(scope="module", params=["recorded", "live"])
def cases(request, oracle):
    """What transformers computes: recorded, or now."""
    if request.param == "recorded":
        return oracle.load()
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return oracle.compute()


@pytest.fixture
def imported(checkpoint):
    """Read a checkpoint with the oracle's weights."""

    def read(name, shapes):
        kind = "whisper" if name == "whisper" else "wav2vec2"
        return read_released(checkpoint(name, shapes), kind)

    return read


@pytest.mark.parametrize("name", ["group", "layer"])
def test_wav2vec2(cases, oracle, imported, name):
    shapes, expected = cases[name]
    model, report = imported(name, shapes)
    without_effect = [n for n in shapes if n.endswith("k_proj.bias")] + ["masked_spec_embed"]
    assert sorted(report.skipped) == sorted(without_effect)
    assert not report.unknown and not report.missing
    samples = oracle.inputs()["samples"]
    encode = jax.jit(wav2vec2.Encoder(model.config).apply, compiler_options=_QUICK)
    states = encode({"params": model.params}, samples)
    assert len(states) == oracle.LAYERS + 1
    for number, state in enumerate(states):
        np.testing.assert_allclose(state, expected[f"state{number}"], **TOLERANCE)


@pytest.mark.parametrize("name", ["group", "layer"])
def test_the_video_teachers_condition(cases, oracle, imported, name):
    shapes, expected = cases[name]
    model, _ = imported(name, shapes)
    samples = oracle.inputs()["samples"]
    apply = wav2vec2.Encoder(model.config).apply
    encode = jax.jit(apply, static_argnums=3, compiler_options=_QUICK)
    states = encode({"params": model.params}, samples, None, oracle.FRAMES)
    chosen = teacher_features(model)
    assert chosen.resample and not chosen.normed
    condition = jnp.concatenate([states[layer] for layer in chosen.layers], -1)
    assert condition.shape == (2, oracle.FRAMES, (oracle.LAYERS + 2) * oracle.WIDTH)
    np.testing.assert_allclose(condition, expected["condition"], **TOLERANCE)


def test_whisper(cases, oracle, imported):
    shapes, expected = cases["whisper"]
    model, report = imported("whisper", shapes)
    assert not report.unknown and not report.missing
    given = oracle.inputs()
    encode = jax.jit(whisper.Encoder(model.config).apply, compiler_options=_QUICK)
    states = encode({"params": model.encoder}, given["mel"])
    assert len(states) == oracle.LAYERS + 1
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
    }
    for config, millions in stated.items():
        shapes = parameter_shapes(config).values()
        assert sum(int(np.prod(s)) for s in shapes) / 1e6 == pytest.approx(millions, rel=0.05)
