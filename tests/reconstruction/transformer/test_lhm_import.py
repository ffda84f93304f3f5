"""Released checkpoints: every tensor is accounted for, and lands where it belongs."""

import itertools
import json

import numpy as np
import pytest
import safetensors.numpy

from jaxavatar.errors import InputError
from jaxavatar.reconstruction.transformer import CONFIGS
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.weights.lhm_import import arrange_released, plan_released, read_released
from jaxavatar.weights.tensor_file import SafetensorsFile

RELEASES = {"LHM-MINI": "mini", "LHM-500M": "500m", "LHM-1B": "1b"}
PARAMETERS = {"mini": 442_314_510, "500m": 668_992_782, "1b": 1_424_587_022}
D = 1024


def linear(name, rows, columns):
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name):
    return {f"{name}.weight": (D,), f"{name}.bias": (D,)}


def dino(prefix):
    shapes = {f"{prefix}cls_token": (1, 1, D), f"{prefix}pos_embed": (1, 1370, D)}
    shapes |= {f"{prefix}register_tokens": (1, 4, D), f"{prefix}patch_embed.proj.bias": (D,)}
    shapes |= {f"{prefix}patch_embed.proj.weight": (D, 3, 14, 14)} | norm(f"{prefix}norm")
    for k in range(24):
        block = f"{prefix}blocks.{k}."
        shapes |= norm(f"{block}norm1") | norm(f"{block}norm2")
        shapes |= linear(f"{block}attn.qkv", 3 * D, D) | linear(f"{block}attn.proj", D, D)
        shapes |= linear(f"{block}mlp.fc1", 4 * D, D) | linear(f"{block}mlp.fc2", D, 4 * D)
        shapes |= {f"{block}ls1.gamma": (D,), f"{block}ls2.gamma": (D,)}
    return shapes


def joint_block(block, last):
    shapes = linear(f"{block}norm1.linear", 6 * D, D)
    shapes |= linear(f"{block}norm1_context.linear", (2 if last else 6) * D, D)
    layers = ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0"]
    for name in layers if last else [*layers, "to_add_out"]:
        shapes |= linear(f"{block}attn.{name}", D, D)
    for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        shapes[f"{block}attn.{name}.weight"] = (64,)
    for name in ("ff",) if last else ("ff", "ff_context"):
        shapes |= linear(f"{block}{name}.net.0.proj", 4 * D, D)
        shapes |= linear(f"{block}{name}.net.2", D, 4 * D)
    return shapes


def lhm(layers):
    """Return names and shapes of a release, without the buffers of SMPL-X."""
    shapes = dino("encoder.model.") | {"pcl_embed.basis": (3, 24)}
    for k in range(4):
        shapes |= {f"encoder.fusion_head.projects.{k}.weight": (D, D, 1, 1)}
        shapes |= {f"encoder.fusion_head.projects.{k}.bias": (D,)}
    shapes |= {"encoder.fusion_head.output_conv.weight": (D, 4 * D, 1, 1)}
    shapes |= {"encoder.fusion_head.output_conv.bias": (D,)}
    shapes |= linear("pcl_embed.mlp", D, 51) | norm("pcl_embed.norm")
    shapes |= linear("motion_embed_mlp.0", 768, 1536) | linear("motion_embed_mlp.2", 2 * D, 768)
    shapes |= linear("transformer.linear_cond_proj", D, 1536) | norm("transformer.norm")
    for layer in range(layers):
        for part in ("head_dit", "body_dit"):
            shapes |= joint_block(f"transformer.layers.{layer}.{part}.", layer == layers - 1)
    shapes |= linear("renderer.mlp_net.layers.0", 512, D)
    shapes |= linear("renderer.mlp_net.layers.2", 512, 512)
    shapes |= linear("renderer.mlp_net.layers.4", D, 512)
    for name, count in (("shs", 3), ("scaling", 3), ("xyz", 3), ("opacity", 1), ("rotation", 4)):
        shapes |= linear(f"renderer.gs_net.out_layers.{name}", count, D)
    return shapes


def hollow(shapes):
    """Arrays of any shape that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(("release", "config"), RELEASES.items())
def test_every_tensor_of_a_release_is_placed(release, config):
    expected = parameter_shapes(CONFIGS[config])
    buffer = "renderer.smplx_model.smplx_layer.v_template"
    tensors = hollow(lhm(CONFIGS[config].layers) | {buffer: (10475, 3)})
    _, report = arrange_released(tensors, "lhm", expected)
    assert not report.unknown
    assert set(report.skipped) == {"pcl_embed.basis", buffer}
    assert {path.partition("/")[0] for path in report.missing} == {"body_encoder"}
    # Nothing lands twice, and all that LHM trains is there.
    assert len(set(report.used.values())) == len(report.used)
    count = sum(int(np.prod(expected[path])) for path in report.used.values())
    assert count == PARAMETERS[config]
    assert "body_encoder missing" in str(report) and "under its own licence" in str(report)


@pytest.mark.parametrize(("release", "config"), RELEASES.items())
def test_names_are_those_of_the_releases(parity_folder, release, config):
    table = json.loads((parity_folder / "lhm_state_dict_shapes.json").read_text())[release]
    shapes = {name: tuple(shape) for name, shape in table["state_dict"].items()}
    buffers = {name for name in shapes if name.startswith("renderer.smplx_model.")}
    assert {k: v for k, v in shapes.items() if k not in buffers} == lhm(CONFIGS[config].layers)
    _, report = arrange_released(hollow(shapes), "lhm", parameter_shapes(CONFIGS[config]))
    assert buffers <= set(report.skipped) and not report.unknown


def test_hands_and_weights_are_what_a_release_lacks():
    config = CONFIGS["hand++"]
    _, report = arrange_released(hollow(lhm(config.layers)), "lhm", parameter_shapes(config))
    lacking = {path for path in report.missing if not path.startswith("body_encoder/")}
    parts = {path.partition("/")[0] for path in lacking}
    assert parts == {"hand_encoder", "hand_projection", "weight_decoder", "transformer"}
    inside = [path for path in lacking if path.startswith("transformer/")]
    assert inside and all("/body/attention/hand_" in path for path in inside)


def test_dinov2_alone():
    tensors = hollow(dino("") | {"mask_token": (1, D)})
    expected = parameter_shapes(CONFIGS["mini"])
    _, report = arrange_released(tensors, "dinov2", expected)
    assert set(report.skipped) == {"mask_token"} and not report.unknown
    mine = {path for path in expected if path.startswith("head_encoder/dino/")}
    assert set(report.used.values()) == mine


@pytest.mark.parametrize("kind", ["hamer", "sapiens"])
def test_encoders_are_filled(kind):
    """Names and shapes of their published code, at full size."""
    config = CONFIGS["hand++"]
    vit = config.hand if kind == "hamer" else config.body
    width, blocks = vit.width, "blocks" if kind == "hamer" else "layers"
    shapes: dict = {"backbone.pos_embed": (1, vit.tokens + 1, width)}
    if kind == "hamer":
        named = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        patches, last = "patch_embed.proj", "last_norm"
    else:
        named = ("ln1", "attn.qkv", "attn.proj", "ln2", "ffn.layers.0.0", "ffn.layers.1")
        patches, last = "patch_embed.projection", "ln1"
        shapes |= {"backbone.cls_token": (1, 1, width), "neck.mask_token": (1, 1, 512)}
    sizes = ((width,), (3 * width, width), (width, width), (width,), (4 * width, width))
    sizes += ((width, 4 * width),)
    shapes |= {f"backbone.{patches}.weight": (width, 3, 16, 16)}
    shapes |= {f"backbone.{patches}.bias": (width,)}
    for end in ("weight", "bias"):
        shapes[f"backbone.{last}.{end}"] = (width,)
    for layer, (name, shape) in itertools.product(range(vit.depth), zip(named, sizes, strict=True)):
        shapes[f"backbone.{blocks}.{layer}.{name}.weight"] = shape
        shapes[f"backbone.{blocks}.{layer}.{name}.bias"] = shape[:1]
    expected = parameter_shapes(config)
    sources, report = plan_released(shapes, kind, expected)
    part = "hand_encoder/" if kind == "hamer" else "body_encoder/"
    assert set(sources) == {path for path in expected if path.startswith(part)}
    assert not report.unknown and len(report.skipped) == (kind == "sapiens")


def test_values_are_turned_the_right_way():
    rng = np.random.default_rng(0)
    tensors = {
        "transformer.linear_cond_proj.weight": rng.normal(size=(4, 6)),
        "encoder.model.patch_embed.proj.weight": rng.normal(size=(4, 3, 2, 5)),
        "encoder.fusion_head.output_conv.weight": rng.normal(size=(4, 8, 1, 1)),
        "encoder.model.register_tokens": rng.normal(size=(1, 2, 4)),
    }
    paths = {
        "transformer/context_in/kernel": (6, 4),
        "head_encoder/dino/patches/kernel": (2, 5, 3, 4),
        "head_encoder/fuse/kernel": (8, 4),
        "head_encoder/dino/registers": (2, 4),
    }
    params, _ = arrange_released(tensors, "lhm", paths)
    w = list(tensors.values())
    assert params["transformer"]["context_in"]["kernel"][5, 2] == w[0][2, 5]
    head = params["head_encoder"]
    assert head["dino"]["patches"]["kernel"][1, 4, 2, 3] == w[1][3, 2, 1, 4]
    assert head["fuse"]["kernel"][7, 3] == w[2][3, 7, 0, 0]
    np.testing.assert_array_equal(head["dino"]["registers"], w[3][0])


def test_files(tmp_path):
    path = tmp_path / "model.safetensors"
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    name = "transformer.linear_cond_proj.weight"
    safetensors.numpy.save_file({name: weight, "new.weight": weight}, path)
    assert len(SafetensorsFile(path)) == 2
    expected = {"transformer/context_in/kernel": (3, 2), "transformer/context_in/bias": (2,)}
    params, report = read_released(path, "lhm", expected)
    np.testing.assert_array_equal(params["transformer"]["context_in"]["kernel"], weight.T)
    assert report.unknown == ("new.weight",)
    assert report.missing == ("transformer/context_in/bias",)
    with pytest.raises(InputError, match=r"of shape \(2, 3\) cannot become .* of shape \(2, 3\)"):
        read_released(path, "lhm", {"transformer/context_in/kernel": (2, 3)})
    with pytest.raises(InputError, match="unknown checkpoint 'lhn'"):
        read_released(path, "lhn", expected)
    with pytest.raises(InputError, match="there is no checkpoint"):
        read_released(tmp_path / "none.safetensors", "lhm", expected)
    path.write_bytes(b"\x80\x04pickle and more bytes than eight")
    with pytest.raises(InputError, match="not a safetensors file"):
        read_released(path, "lhm", expected)
