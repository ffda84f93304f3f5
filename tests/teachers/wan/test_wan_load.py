"""Released checkpoints: two spellings, low-rank changes, and what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxavatar.errors import InputError
from jaxavatar.teachers.wan.load import load_autoencoder, load_transformer


@pytest.fixture(scope="module")
def tensors(oracle):
    """Weights under diffusers' names, by model."""
    return {name: oracle.weights(shapes, 0) for name, (shapes, _) in oracle.load().items()}


@pytest.fixture
def save(tmp_path):
    def write(tensors, name="model.safetensors"):
        path = tmp_path / name
        arrays = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        safetensors.numpy.save_file(arrays, path)
        return path

    return write


_OFFICIAL = {
    r"condition_embedder\.time_embedder\.linear_1": "time_embedding.0",
    r"condition_embedder\.time_embedder\.linear_2": "time_embedding.2",
    r"condition_embedder\.text_embedder\.linear_1": "text_embedding.0",
    r"condition_embedder\.text_embedder\.linear_2": "text_embedding.2",
    r"condition_embedder\.time_proj": "time_projection.1",
    r"^scale_shift_table": "head.modulation",
    r"proj_out": "head.head",
    r"(blocks\.\d+)\.scale_shift_table": r"\1.modulation",
    r"attn1\.": "self_attn.",
    r"attn2\.": "cross_attn.",
    r"\.to_([qkv])\.": r".\1.",
    r"\.to_out\.0\.": ".o.",
    r"ffn\.net\.0\.proj": "ffn.0",
    r"ffn\.net\.2": "ffn.2",
    r"\.norm2\.": ".norm3.",
}


def official(name):
    for pattern, text in _OFFICIAL.items():
        name = re.sub(pattern, text, name)
    return name


def official_autoencoder(name):
    up = re.match(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)", name)
    if up:
        number = 3 * int(up[1]) + (2 if up[2] == "upsamplers" else int(up[3]))
        name = f"decoder.upsamples.{number}{name[up.end() :]}"
    for pattern, text in {
        r"^quant_conv": "conv1",
        r"^post_quant_conv": "conv2",
        r"\.conv_in\.": ".conv1.",
        r"down_blocks": "downsamples",
        r"mid_block\.resnets\.0": "middle.0",
        r"mid_block\.attentions\.0": "middle.1",
        r"mid_block\.resnets\.1": "middle.2",
        r"\.norm_out\.": ".head.0.",
        r"\.conv_out\.": ".head.2.",
        r"((?:samples|middle)\.\d+)\.norm1": r"\1.residual.0",
        r"((?:samples|middle)\.\d+)\.conv1": r"\1.residual.2",
        r"((?:samples|middle)\.\d+)\.norm2": r"\1.residual.3",
        r"((?:samples|middle)\.\d+)\.conv2": r"\1.residual.6",
        r"conv_shortcut": "shortcut",
    }.items():
        name = re.sub(pattern, text, name)
    return name


def same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_transformer_in_both_spellings(tensors, save, configs, imported):
    diffusers = tensors["heard"]
    spelled = {official(name): value for name, value in diffusers.items()}
    assert "blocks.0.self_attn.q.weight" in spelled and "blocks.5.norm3.bias" in spelled
    assert not any(re.search("attn1|to_|scale_shift|embedder", name) for name in spelled)
    expected = imported("heard", diffusers)
    for number, names in enumerate((diffusers, spelled)):
        params, report = load_transformer(configs["heard"], save(names, f"{number}.safetensors"))
        assert len(report.used) == len(diffusers) and not report.unknown and not report.missing
        same(params, expected, rtol=0)


def test_autoencoder_in_both_spellings(tensors, save, configs, imported):
    diffusers = tensors["autoencoder"]
    spelled = {official_autoencoder(name): value for name, value in diffusers.items()}
    assert "encoder.downsamples.0.residual.0.gamma" in spelled and "conv1.weight" in spelled
    assert not any(re.search("block|norm[12]|conv_|quant", name) for name in spelled)
    expected = imported("autoencoder", diffusers)
    for number, names in enumerate((diffusers, spelled)):
        params, _ = load_autoencoder(configs["autoencoder"], save(names, f"{number}.safetensors"))
        same(params, expected, rtol=0)


@pytest.fixture
def released(tensors):
    """Wan's and OmniAvatar's part of a checkpoint, and the merged matrix of one layer."""
    random = np.random.default_rng(0)
    whole = {official(name): value for name, value in tensors["heard"].items()}
    base = {name: value for name, value in whole.items() if not name.startswith("audio_")}
    adapter = {name: value for name, value in whole.items() if name.startswith("audio_")}
    adapter["patch_embedding.weight"] = whole["patch_embedding.weight"]
    base["patch_embedding.weight"] = whole["patch_embedding.weight"][:, :16]
    down, up = random.normal(size=(3, 24)), random.normal(size=(32, 3))
    adapter["blocks.1.ffn.0.lora_A.default.weight"] = down.astype(np.float32)
    adapter["blocks.1.ffn.0.lora_B.default.weight"] = up.astype(np.float32)
    merged = whole["blocks.1.ffn.0.weight"] + 6.0 / 3 * up @ down
    return base, adapter, merged


def test_omniavatar_on_top_of_wan(released, save, configs, imported, tensors):
    base, adapter, merged = released
    names = sorted(base)
    shards = [save({n: base[n] for n in names[k::2]}, f"{k}.safetensors") for k in (0, 1)]
    extra = save(adapter, "omni.safetensors")
    params, report = load_transformer(configs["heard"], shards, extra, alpha=6.0)
    np.testing.assert_allclose(
        params["block1"]["feed_forward"]["up"]["kernel"], merged.T, rtol=1e-5, atol=1e-6
    )
    assert report.used["blocks.1.ffn.0.lora_A.default.weight"] == "block1/feed_forward/up/kernel"
    assert len(report.used) == len(base) + len(adapter) - 1
    expected = imported("heard", tensors["heard"])
    expected["block1"]["feed_forward"]["up"]["kernel"] = merged.T
    same(params, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_files_and_parameters(tensors, save, configs):
    halves = {name: value.astype(jnp.bfloat16) for name, value in tensors["heard"].items()}
    params, _ = load_transformer(configs["heard"], save(halves), half=True)
    query = params["block0"]["self_attention"]["query"]
    assert query["kernel"].dtype == jnp.bfloat16 and query["bias"].dtype == jnp.float32
    np.testing.assert_array_equal(
        np.asarray(query["kernel"]).T, halves["blocks.0.attn1.to_q.weight"]
    )


def test_what_does_not_fit_is_refused(released, save, configs):
    base, adapter, _ = released
    whole = base | {k: v for k, v in adapter.items() if "lora" not in k}
    with pytest.raises(InputError, match="1 missing parameters, such as block3/modulation"):
        load_transformer(
            configs["heard"], save({k: v for k, v in whole.items() if k != "blocks.3.modulation"})
        )
    with pytest.raises(InputError, match="1 unknown tensors, such as img_emb"):
        load_transformer(configs["heard"], save(whole | {"img_emb.proj.0.weight": np.ones(2)}))
    with pytest.raises(InputError, match="cannot become patches/kernel"):
        load_transformer(configs["heard"], save(base))
    path = save(whole)
    for name, match in (
        ("blocks.1.ffn.0.lora_B.default.weight", "lacks a factor"),
        ("blocks.9.ffn.0.lora_A.default.weight", "changes a layer"),
    ):
        factor = {name: np.ones((3, 3), np.float32)}
        with pytest.raises(InputError, match=match):
            load_transformer(configs["heard"], path, save(factor, "lora.safetensors"))
    factors = {f"blocks.1.ffn.0.lora_{k}.weight": np.ones((3, 3), np.float32) for k in "AB"}
    with pytest.raises(InputError, match="has factors"):
        load_transformer(configs["heard"], path, save(factors, "lora.safetensors"))


def test_pickles_are_refused_with_the_way_out(tmp_path, configs):
    path = tmp_path / "Wan2.1_VAE.pth"
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(InputError, match=r"convert it with: python -c .*Wan2\.1_VAE\.safetensors"):
        load_autoencoder(configs["autoencoder"], path)
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_autoencoder(configs["autoencoder"], tmp_path / "none.pth")
