"""`jaxavatar weights import`: licences first, every tensor accounted for, one sentence if not."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

from jaxavatar import cli
from jaxavatar.reconstruction.transformer import CONFIGS
from jaxavatar.reconstruction.transformer.config import DinoConfig, TransformerConfig, VitConfig
from jaxavatar.reconstruction.transformer.params_file import load_params
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes

D = 8
SMALL = TransformerConfig(
    points=8,
    layers=1,
    width=D,
    heads=2,
    body=VitConfig((32, 16), 16, 0, D, 1, 2, class_token=True),
    head=DinoConfig(14, 14, D, 1, 2, 1, 3, (0,)),
    hand=VitConfig((16, 16), 8, 0, D, 1, 2),
    decoder_width=4,
    hand_branch=True,
)


@pytest.fixture
def small(monkeypatch):
    """Let `--config mini` mean a model that fits into a test."""
    monkeypatch.setitem(CONFIGS, "mini", SMALL)


def linear(name, rows, columns):
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name):
    return {f"{name}.weight": (D,), f"{name}.bias": (D,)}


def dino():
    """Names of the release of DINOv2, width 8, one block, 3 x 3 positions."""
    shapes = {"cls_token": (1, 1, D), "pos_embed": (1, 10, D), "register_tokens": (1, 1, D)}
    shapes |= {"mask_token": (1, D), "patch_embed.proj.weight": (D, 3, 14, 14)}
    shapes |= {"patch_embed.proj.bias": (D,)} | norm("norm") | norm("blocks.0.norm1")
    shapes |= norm("blocks.0.norm2") | linear("blocks.0.attn.qkv", 3 * D, D)
    shapes |= linear("blocks.0.attn.proj", D, D) | linear("blocks.0.mlp.fc1", 4 * D, D)
    shapes |= linear("blocks.0.mlp.fc2", D, 4 * D)
    return shapes | {"blocks.0.ls1.gamma": (D,), "blocks.0.ls2.gamma": (D,)}


def lhm():
    """What one body-head block and its surroundings are called in LHM, part of it."""
    shapes = {f"encoder.model.{name}": shape for name, shape in dino().items()}
    shapes |= linear("transformer.linear_cond_proj", D, D) | norm("transformer.norm")
    shapes |= {"pcl_embed.basis": (3, 24)} | linear("pcl_embed.mlp", D, 51)
    return shapes | {"renderer.smplx_model.smplx_layer.v_template": (20, 3)}


def sapiens(prefix="backbone.", tokens=2, token=True):
    """MMPretrain's names, one layer."""
    shapes = {"pos_embed": (1, tokens + token, D), "patch_embed.projection.weight": (D, 3, 16, 16)}
    shapes |= {"patch_embed.projection.bias": (D,)} | norm("ln1") | norm("layers.0.ln1")
    shapes |= norm("layers.0.ln2") | linear("layers.0.attn.qkv", 3 * D, D)
    shapes |= linear("layers.0.attn.proj", D, D) | linear("layers.0.ffn.layers.0.0", 4 * D, D)
    shapes |= linear("layers.0.ffn.layers.1", D, 4 * D)
    shapes |= {"cls_token": (1, 1, D)} if token else {}
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def hamer():
    shapes = {"pos_embed": (1, 5, D), "patch_embed.proj.weight": (D, 3, 8, 8)}
    shapes |= {"patch_embed.proj.bias": (D,)} | norm("last_norm") | norm("blocks.0.norm1")
    shapes |= norm("blocks.0.norm2") | linear("blocks.0.attn.qkv", 3 * D, D)
    shapes |= linear("blocks.0.attn.proj", D, D) | linear("blocks.0.mlp.fc1", 4 * D, D)
    shapes |= linear("blocks.0.mlp.fc2", D, 4 * D)
    shapes = {f"backbone.{name}": shape for name, shape in shapes.items()}
    return shapes | {"mano.shapedirs": (7, 3, 10), "mano_head.decpose.bias": (6,)}


def write(path, shapes, kind="float32"):
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(kind) for name, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, path)
    return tensors


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; return its status and what it said."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = cli.main(["weights", "import", *words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.err

    return call


def test_lhm(tmp_path, small, run):
    tensors = write(tmp_path / "lhm.safetensors", lhm())
    words = ("lhm", "lhm.safetensors", "--config", "mini", "--out", "mine.safetensors")
    status, said = run(*words, "--accept-licence")
    assert status == 0
    assert said.startswith("LHM: CC BY-NC 4.0")
    assert "1 tensors skipped: SMPL-X" in said and "parameters of body_encoder missing" in said
    params, config, info = load_params(tmp_path / "mine.safetensors")
    assert config == SMALL and info["imports"][0]["kind"] == "lhm"
    expected = tensors["transformer.linear_cond_proj.weight"].T
    np.testing.assert_array_equal(params["transformer"]["context_in"]["kernel"], expected)
    account = json.loads((tmp_path / "mine.lhm.json").read_text())
    named = [*account["used"], *account["skipped"], *account["unknown"]]
    assert sorted(named) == sorted(tensors)
    assert account["used"]["pcl_embed.mlp.bias"] == "point_embedding/linear/bias"
    assert set(account["missing"]) | set(account["used"].values()) == set(parameter_shapes(SMALL))


def test_encoders_join_one_file(tmp_path, small, run):
    """LHM, then the body and hand encoders; half precision of the source is widened."""
    write(tmp_path / "lhm.safetensors", lhm())
    body = write(tmp_path / "sapiens.safetensors", sapiens(), "float16")
    hands = write(tmp_path / "hamer.safetensors", hamer())
    assert run("lhm", "lhm.safetensors", "--config=mini", "--out=m.st", "--accept-licence")[0] == 0
    for kind in ("sapiens", "hamer"):
        words = (kind, f"{kind}.safetensors", "--into=m.st", "--accept-licence")
        assert run(*words)[0] == 0
    params, config, info = load_params(tmp_path / "m.st")
    assert config == SMALL
    assert [entry["kind"] for entry in info["imports"]] == ["lhm", "sapiens", "hamer"]
    found = params["body_encoder"]
    np.testing.assert_array_equal(found["class_token"], body["backbone.cls_token"][0, 0])
    np.testing.assert_array_equal(found["positions"], body["backbone.pos_embed"][0])
    up = body["backbone.layers.0.ffn.layers.0.0.weight"].T
    np.testing.assert_array_equal(found["block0"]["up"]["kernel"], up)
    places = hands["backbone.pos_embed"][0]
    np.testing.assert_array_equal(params["hand_encoder"]["positions"], places[1:] + places[0])
    assert "transformer" in params


def test_sapiens_without_a_class_token(tmp_path, small, run):
    tensors = write(tmp_path / "s.safetensors", sapiens("", token=False))
    status, _ = run("sapiens", "s.safetensors", "--config=mini", "--out=m.st", "--accept-licence")
    assert status == 0
    params, config, _ = load_params(tmp_path / "m.st")
    assert config == dataclasses.replace(SMALL, body=VitConfig((32, 16), 16, 0, D, 1, 2))
    np.testing.assert_array_equal(params["body_encoder"]["positions"], tensors["pos_embed"][0])


def test_half_size(tmp_path, small, run):
    write(tmp_path / "d.safetensors", dino())
    for name, words in (("whole", ()), ("half", ("--half",))):
        out = f"--out={name}.safetensors"
        assert run("dinov2", "d.safetensors", "--config=mini", out, *words)[0] == 0
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("kind", ["lhm", "hamer", "sapiens"])
def test_licences_must_be_accepted(tmp_path, run, kind):
    """Before anything is read: the file need not be there."""
    status, said = run(kind, "none.safetensors", "--config=mini", "--out=m.st")
    assert status == 2
    notice, sentence = said.strip().split("\n")
    assert "https://" in notice
    assert sentence.startswith("jaxavatar: ") and "--accept-licence" in sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"new.weight": (3,)}, "1 of them, such as new.weight"),
        ({"blocks.1.norm1.weight": (D,)}, "such as blocks.1.norm1.weight"),
        ({"norm.weight": (D + 1,)}, "norm.weight of shape (9,) cannot become"),
        ({"blocks.0.attn.qkv.weight": (3 * D,)}, "blocks.0.attn.qkv.weight of shape (24,)"),
        ({"pos_embed": (1, 12, D)}, "choose the configuration"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, small, run, change, message):
    write(tmp_path / "d.safetensors", dino() | change)
    status, said = run("dinov2", "d.safetensors", "--config=mini", "--out=m.st")
    assert status == 2 and message in said.strip().split("\n")[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]


def test_other_mistakes(tmp_path, small, run):
    write(tmp_path / "d.safetensors", dino())
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04 a pickle")
    nan = {"register_tokens": np.full((1, 1, D), np.nan, np.float32)}
    safetensors.numpy.save_file(nan, tmp_path / "nan.safetensors")
    safetensors.numpy.save_file({"mask_token": np.ones((1, D))}, tmp_path / "empty.safetensors")
    for words, message in (
        (("none.safetensors", "--config=mini", "--out=m.st"), "there is no checkpoint at none"),
        (("bad.safetensors", "--config=mini", "--out=m.st"), "not a safetensors file"),
        (("nan.safetensors", "--config=mini", "--out=m.st"), "not finite"),
        (("empty.safetensors", "--config=mini", "--out=m.st"), "holds nothing of DINOv2"),
        (("d.safetensors", "--config=mini"), "--out"),
        (("d.safetensors", "--out=m.st"), "--config"),
        (("d.safetensors", "--into=d.safetensors"), "does not hold parameters"),
        (("d.safetensors", "--config=mini", "--out=."), "is a folder"),
    ):
        status, said = run("dinov2", *words)
        assert status == 2 and message in said.strip().split("\n")[-1], words
    assert not (tmp_path / "m.st").exists()
    assert run("dinov2", "d.safetensors", "--config=mini", "--out=m.st")[0] == 0
    status, said = run("dinov2", "d.safetensors", "--config=500m", "--into=m.st")
    assert status == 2 and "m.st holds another model" in said


def test_the_same_parameter_twice(tmp_path, small, run):
    write(tmp_path / "s.safetensors", sapiens() | {"pos_embed": (1, 3, D)})
    status, said = run("sapiens", "s.safetensors", "--config=mini", "--out=m", "--accept-licence")
    assert status == 2 and "both become body_encoder/positions" in said
