"""`weights import wav2vec2` and `whisper`: every tensor accounted for, one sentence if not."""

import json

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from jaxavatar import cli
from jaxavatar.errors import InputError
from jaxavatar.speech import Wav2Vec2, Whisper, load_encoder, load_reader
from jaxavatar.speech.encoders import teacher_features
from jaxavatar.speech.released import read_released


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in the checkpoint's folder; return its status and what it said."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = cli.main(["weights", "import", *words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.err

    return call


def edit_config(path, **fields):
    config = path.with_name("config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))


def edit_tensors(path, change):
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


def test_wav2vec2(oracle, checkpoint, run, tmp_path):
    path = checkpoint("group")
    status, said = run("wav2vec2", str(path), "--out", "ears.safetensors")
    assert status == 0
    assert said.startswith("wav2vec 2.0: Apache-2.0") and "softmax ignores" in said
    account = json.loads((tmp_path / "ears.wav2vec2.json").read_text())
    names = oracle.load()["group"][0]
    assert sorted([*account["used"], *account["skipped"]]) == sorted(names)
    encoder = load_encoder(tmp_path / "ears.safetensors")
    assert encoder.name == "ears" and isinstance(encoder.model, Wav2Vec2)
    expected, _ = read_released(path, "wav2vec2")
    assert encoder.model.config == expected.config
    np.testing.assert_array_equal(
        encoder.model.params["block1"]["up"]["kernel"],
        oracle.weights(names)["encoder.layers.1.feed_forward.intermediate_dense.weight"].T,
    )
    with pytest.raises(InputError, match="reads no text"):
        load_reader(tmp_path / "ears.safetensors")


def test_names_below_a_head_and_of_older_torch(checkpoint):
    """As in wav2vec2-base-960h: "wav2vec2." before each name, and `weight_g`, `weight_v`."""
    path = checkpoint("group")
    expected, _ = read_released(path, "wav2vec2")
    new = "parametrizations.weight.original"
    tensors = {
        "wav2vec2." + name.replace(new + "0", "weight_g").replace(new + "1", "weight_v"): tensor
        for name, tensor in safetensors.numpy.load_file(path).items()
    }
    tensors |= {"lm_head.weight": np.ones((4, 16)), "lm_head.bias": np.ones(4)}
    safetensors.numpy.save_file(tensors, path)
    model, report = read_released(path, "wav2vec2")
    assert report.skipped["lm_head.bias"] == "a head above the model"
    assert isinstance(model, Wav2Vec2) and isinstance(expected, Wav2Vec2)
    np.testing.assert_array_equal(
        model.params["position"]["length"], expected.params["position"]["length"]
    )


def test_whisper_with_its_vocabulary(checkpoint, run, tmp_path):
    path = checkpoint("whisper")
    special = ["endoftext", "startoftranscript", "en", "transcribe", "nospeech", "notimestamps"]
    words = {"Ġone": 0, "?": 1} | {f"<|{name}|>": n for n, name in enumerate(special, start=2)}
    pieces = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    pieces.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.save(str(tmp_path / "tokenizer.json"))
    lists = {"is_multilingual": True, "suppress_tokens": [1], "begin_suppress_tokens": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(lists))
    status, _ = run("whisper", str(path), "--out", "w.safetensors", "--half")
    assert status == 0
    model, vocabulary = load_reader("w.safetensors")
    assert vocabulary.start == (3, 4, 5, 7) and vocabulary.no_speech == 6
    assert vocabulary.tokenize("one") == [0] and vocabulary.suppressed == (1,)
    expected, _ = read_released(path, "whisper")
    assert isinstance(expected, Whisper)
    np.testing.assert_allclose(
        model.encoder["conv1"]["kernel"], expected.encoder["conv1"]["kernel"], rtol=1e-3, atol=1e-6
    )
    with pytest.raises(InputError, match="does not know the language 'fr'"):
        load_reader("w.safetensors", language="fr")


def test_a_whisper_without_vocabulary_hears_but_does_not_read(checkpoint, run):
    run("whisper", str(checkpoint("whisper")), "--out", "w.safetensors")
    with pytest.raises(InputError, match="hears at most 15 frames"):
        load_encoder("w.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.with_name("config.json").unlink(), "put the config.json"),
        (lambda p: p.with_name("config.json").write_text("{"), "fetch it again"),
        (lambda p: edit_config(p, model_type="hubert"), "of type 'hubert', not 'wav2vec2'"),
        (lambda p: edit_config(p, hidden_act="relu"), "hidden_act is 'relu', not 'gelu'"),
        (lambda p: edit_config(p, conv_stride=[5, 2]), "differ in length"),
        (lambda p: edit_config(p, num_hidden_layers=3), "lacks parameters of wav2vec 2.0"),
        (lambda p: edit_config(p, num_hidden_layers=1), "does not have"),
        (lambda p: edit_config(p, hidden_size=32), "cannot become"),
        (
            lambda p: edit_tensors(p, lambda t: t.pop("encoder.layer_norm.bias")),
            "such as norm/bias",
        ),
        (lambda p: edit_tensors(p, lambda t: t.update(odd=np.ones(2))), "such as odd"),
        (lambda p: p.write_bytes(b"PK"), "not a safetensors file"),
        (lambda p: p.unlink(), "there is no checkpoint"),
    ],
)
def test_what_cannot_be_imported(checkpoint, run, tmp_path, change, message):
    path = checkpoint("group")
    change(path)
    status, said = run("wav2vec2", str(path), "--out", "ears.safetensors")
    assert status != 0 and message in said
    assert not (tmp_path / "ears.safetensors").exists()


def test_arguments_that_do_not_belong(checkpoint, run):
    path = str(checkpoint("group"))
    for words in ((), ("--config", "1b", "--out", "o"), ("--into", "o", "--out", "o")):
        status, said = run("wav2vec2", path, *words)
        assert status != 0 and "wav2vec2 needs --out" in said


def test_files_that_are_no_models(checkpoint, run, tmp_path):
    with pytest.raises(InputError, match="there is no speech model nowhere; name a file"):
        load_encoder("nowhere")
    path = checkpoint("layer")
    with pytest.raises(InputError, match="does not hold a speech model of ours"):
        load_encoder(path)
    run("wav2vec2", str(path), "--out", "ears.safetensors")
    with safetensors.safe_open("ears.safetensors", "numpy") as file:
        metadata = file.metadata()
    tensors = safetensors.numpy.load_file("ears.safetensors")
    for fields, message in (
        ({"version": "2"}, "update jaxavatar"),
        ({"kind": "other"}, "is damaged"),
        ({"config": "{}"}, "is damaged"),
    ):
        safetensors.numpy.save_file(tensors, "bad.safetensors", metadata | fields)
        with pytest.raises(InputError, match=message):
            load_encoder("bad.safetensors")


def test_the_video_teachers_encoder(checkpoint, run):
    run("wav2vec2", str(checkpoint("group")), "--out", "ears.safetensors")
    model = load_encoder("ears.safetensors").model
    assert isinstance(model, Wav2Vec2)
    encoder = load_encoder("ears.safetensors", teacher_features(model))
    assert encoder.config.layers == (2, 0, 1, 2) and encoder.width == 4 * 16
