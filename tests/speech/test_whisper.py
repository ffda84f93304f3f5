"""Whisper against a float64 re-implementation on the file's own arrays, small random sizes."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxavatar.errors import InputError
from jaxavatar.speech import whisper_file
from jaxavatar.speech.whisper import Decoder, Encoder, WhisperConfig

WIDTH, HEADS, LAYERS, MELS, WORDS, SOUNDS, TEXTS = 24, 3, 2, 80, 50, 40, 12


def random_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """A whole model under CTranslate2's names, with weights that let every part matter."""
    generator = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return generator.normal(scale=scale, size=shape).astype(np.float32)

    def linear(name, out, into):
        return {f"{name}/weight": normal(out, into, scale=into**-0.5), f"{name}/bias": normal(out)}

    def norm(name):
        return {f"{name}/gamma": 1 + normal(WIDTH, scale=0.2), f"{name}/beta": normal(WIDTH)}

    arrays: dict[str, np.ndarray] = {"decoder/embeddings/weight": normal(WORDS, WIDTH)}
    for number, (into, out) in enumerate([(MELS, WIDTH), (WIDTH, WIDTH)], start=1):
        arrays[f"encoder/conv{number}/weight"] = normal(out, into, 3, scale=(3 * into) ** -0.5)
        arrays[f"encoder/conv{number}/bias"] = normal(out)
    for side, places in (("encoder", SOUNDS), ("decoder", TEXTS)):
        arrays[f"{side}/num_heads"] = np.array(HEADS, np.int16)
        arrays[f"{side}/position_encodings/encodings"] = normal(places, WIDTH)
        arrays |= norm(f"{side}/layer_norm")
        for layer in range(LAYERS):
            at = f"{side}/layer_{layer}"
            arrays |= norm(f"{at}/self_attention/layer_norm") | norm(f"{at}/ffn/layer_norm")
            arrays |= linear(f"{at}/self_attention/linear_0", 3 * WIDTH, WIDTH)
            arrays |= linear(f"{at}/self_attention/linear_1", WIDTH, WIDTH)
            arrays |= linear(f"{at}/ffn/linear_0", 4 * WIDTH, WIDTH)
            arrays |= linear(f"{at}/ffn/linear_1", WIDTH, 4 * WIDTH)
            if side == "decoder":
                arrays |= norm(f"{at}/attention/layer_norm")
                arrays |= linear(f"{at}/attention/linear_0", WIDTH, WIDTH)
                arrays |= linear(f"{at}/attention/linear_1", 2 * WIDTH, WIDTH)
                arrays |= linear(f"{at}/attention/linear_2", WIDTH, WIDTH)
    return arrays


def write(path, arrays):
    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        code = {"float32": 0, "int16": 2}[array.dtype.name]
        out += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", code, array.nbytes) + array.tobytes()
    path.write_bytes(out + struct.pack("<I", 0))


class Oracle:
    """Whisper in float64 numpy, written from the paper and the file's layout."""

    def __init__(self, arrays):
        self.arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def linear(self, x, name):
        return x @ self.arrays[f"{name}/weight"].T + self.arrays[f"{name}/bias"]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self.arrays[f"{name}/gamma"] + self.arrays[f"{name}/beta"]

    @staticmethod
    def gelu(x):
        return 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2)))

    def conv(self, x, name, stride):
        padded = np.pad(x, ((1, 1), (0, 0)))
        kernel = self.arrays[f"{name}/weight"]
        pieces = [padded[i : i + 3] for i in range(0, len(x), stride)]
        return (
            np.stack([np.einsum("kc,ock->o", p, kernel) for p in pieces])
            + self.arrays[f"{name}/bias"]
        )

    @staticmethod
    def attend(q, k, v, causal):
        out = []
        for h in range(HEADS):
            part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            scores = q[:, part] @ k[:, part].T / np.sqrt(WIDTH // HEADS)
            if causal:
                scores[np.triu_indices(len(q), 1)] = -np.inf
            out.append(scipy.special.softmax(scores, -1) @ v[:, part])
        return np.concatenate(out, 1)

    def block(self, x, at, causal, sound=None):
        normed = self.norm(x, f"{at}/self_attention/layer_norm")
        q, k, v = np.split(self.linear(normed, f"{at}/self_attention/linear_0"), 3, 1)
        x = x + self.linear(self.attend(q, k, v, causal), f"{at}/self_attention/linear_1")
        if sound is not None:
            q = self.linear(self.norm(x, f"{at}/attention/layer_norm"), f"{at}/attention/linear_0")
            k, v = np.split(self.linear(sound, f"{at}/attention/linear_1"), 2, 1)
            x = x + self.linear(self.attend(q, k, v, False), f"{at}/attention/linear_2")
        y = self.gelu(self.linear(self.norm(x, f"{at}/ffn/layer_norm"), f"{at}/ffn/linear_0"))
        return x + self.linear(y, f"{at}/ffn/linear_1")

    def encode(self, mel):
        x = self.gelu(self.conv(mel, "encoder/conv1", 1))
        x = self.gelu(self.conv(x, "encoder/conv2", 2))
        states = [x + self.arrays["encoder/position_encodings/encodings"][: len(x)]]
        for layer in range(LAYERS):
            states.append(self.block(states[-1], f"encoder/layer_{layer}", False))
        return [*states[:-1], self.norm(states[-1], "encoder/layer_norm")]

    def decode(self, tokens, sound):
        x = self.arrays["decoder/embeddings/weight"][tokens]
        x = x + self.arrays["decoder/position_encodings/encodings"][: len(tokens)]
        for layer in range(LAYERS):
            x = self.block(x, f"decoder/layer_{layer}", True, sound)
        return self.norm(x, "decoder/layer_norm")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.bin"
    arrays = random_arrays()
    write(path, arrays)
    return whisper_file.load(path), Oracle(arrays)


def test_sizes_come_from_the_file(small):
    expected = WhisperConfig(MELS, WIDTH, HEADS, LAYERS, LAYERS, WORDS, SOUNDS, TEXTS)
    assert small[0].config == expected


@pytest.mark.parametrize("frames", [61, 80])
def test_encoder(small, frames):
    model, oracle = small
    mel = np.random.default_rng(1).normal(size=(2, frames, MELS)).astype(np.float32)
    states = jax.jit(Encoder(model.config).apply)({"params": model.encoder}, mel)
    for row in range(2):
        for state, expected in zip(states, oracle.encode(mel[row]), strict=True):
            np.testing.assert_allclose(state[row], expected, atol=2e-4)


def test_decoder_at_once_and_token_by_token(small):
    model, oracle = small
    generator = np.random.default_rng(2)
    sound = generator.normal(size=(SOUNDS, WIDTH)).astype(np.float32)
    tokens = generator.integers(WORDS, size=9)
    variables, decoder = {"params": model.decoder}, Decoder(model.config)
    heard = decoder.apply(variables, sound, method="hear")
    empty = decoder.apply(variables, TEXTS, method="silence")
    run = jax.jit(decoder.apply)
    expected = oracle.decode(tokens, sound)
    np.testing.assert_allclose(run(variables, tokens, 0, empty, heard)[0], expected, atol=2e-4)
    cache = empty
    for place, token in enumerate(tokens):
        state, cache = run(variables, jnp.array([token]), place, cache, heard)
        np.testing.assert_allclose(state[0], expected[place], atol=2e-4)
    scores = decoder.apply(variables, state, method="logits")
    embedding = oracle.arrays["decoder/embeddings/weight"]
    np.testing.assert_allclose(scores[0], embedding @ expected[-1], atol=2e-3)


def test_another_model_is_refused(tmp_path):
    arrays = random_arrays()
    del arrays["encoder/conv2/bias"]
    write(tmp_path / "model.bin", arrays)
    with pytest.raises(InputError, match="no Whisper model"):
        whisper_file.load(tmp_path / "model.bin")
