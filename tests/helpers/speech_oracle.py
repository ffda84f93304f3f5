"""wav2vec 2.0 and Whisper as transformers computes them, for random weights.

Run with torch and transformers installed, it records what they compute:

    python tests/helpers/speech_oracle.py

Weights and inputs come from NumPy's frozen generator, so only shapes and outputs are recorded.
"""

import json
import math
import pathlib
from typing import Any

import numpy as np

DATA = pathlib.Path(__file__).parents[1] / "speech" / "transformers.npz"
WIDTH, HEADS, LAYERS, HIDDEN, CHANNELS = 16, 2, 2, 24, 8
FRAMES, MELS, POSITIONS, WORDS, TEXTS = 10, 80, 30, 50, 12

WAV2VEC2 = {
    "conv_dim": [CHANNELS] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": HIDDEN,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "layer_norm_eps": 1e-5,
    "model_type": "wav2vec2",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "group": WAV2VEC2
    | {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False},
    "layer": WAV2VEC2
    | {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
    "whisper": {
        "model_type": "whisper",
        "num_mel_bins": MELS,
        "d_model": WIDTH,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_layers": LAYERS,
        "decoder_layers": 1,
        "encoder_ffn_dim": 4 * WIDTH,
        "decoder_ffn_dim": 4 * WIDTH,
        "vocab_size": WORDS,
        "max_source_positions": POSITIONS,
        "max_target_positions": TEXTS,
    },
}
"""What config.json would say."""


def weights(shapes):
    """Make random weights of a size at which activations stay of order 1."""
    random = np.random.RandomState(0)
    made = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        values = random.standard_normal(shape)
        if name.endswith("original0") or ("norm" in name and name.endswith("weight")):
            values = 1 + 0.2 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        elif not name.endswith(("embed_positions.weight", "embed_tokens.weight")):
            values = 1.5 * values / math.sqrt(math.prod(shape[1:]))
        made[name] = values.astype(np.float32)
    return made


def inputs():
    random = np.random.RandomState(1)
    return {
        "samples": random.standard_normal((2, 400 + 320 * (2 * FRAMES - 1))).astype(np.float32),
        "mel": random.standard_normal((2, 2 * POSITIONS, MELS)).astype(np.float32),
        "tokens": random.randint(0, WORDS, (2, 7)),
    }


def load():
    """Return what was recorded: {model: (shapes, outputs)}."""
    with np.load(DATA) as file:
        return {
            model: (
                json.loads(str(file[f"{model}/shapes"])),
                {
                    key.partition("/")[2]: file[key]
                    for key in file.files
                    if key.startswith(f"{model}/") and not key.endswith("/shapes")
                },
            )
            for model in CONFIGS
        }


def compute():
    """Compute the same with torch and transformers."""
    return {"group": _wav2vec2("group"), "layer": _wav2vec2("layer"), "whisper": _whisper()}


def _wav2vec2(model_name):
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import (  # pyright: ignore[reportMissingImports]
        Wav2Vec2Config,
        Wav2Vec2Model,
    )

    model = Wav2Vec2Model(Wav2Vec2Config(**CONFIGS[model_name])).eval()
    shapes = _fill(model)
    samples = torch.tensor(inputs()["samples"])
    with torch.no_grad():
        states = _states(model(samples, output_hidden_states=True))
        # As talking-head models use it: features at the frame rate before the transformer.
        model.feature_extractor.register_forward_hook(
            lambda module, given, features: torch.nn.functional.interpolate(
                features, size=FRAMES, mode="linear", align_corners=True
            )
        )
        slow = model(samples, output_hidden_states=True)
        condition = torch.cat([slow.last_hidden_state, *_states(slow)], dim=-1)
    return shapes, _numbered(states) | {"condition": condition.numpy()}


def _whisper():
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import (  # pyright: ignore[reportMissingImports]
        WhisperConfig,
        WhisperModel,
    )

    extra: dict[str, Any] = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
    }
    model = WhisperModel(WhisperConfig(**CONFIGS["whisper"], **extra)).eval()
    shapes = _fill(model)
    given = inputs()
    with torch.no_grad():
        mel = torch.tensor(given["mel"]).transpose(1, 2)
        heard = model.encoder(mel, output_hidden_states=True)
        read = model.decoder(
            torch.tensor(given["tokens"]), encoder_hidden_states=heard.last_hidden_state
        ).last_hidden_state
        logits = read @ model.decoder.embed_tokens.weight.T
    return shapes, _numbered(_states(heard)) | {"logits": logits.numpy()}


def _states(output):
    """Return all hidden states, the last one normalised: since version 5, transformers' is not."""
    return [*output.hidden_states[:-1], output.last_hidden_state]


def _numbered(states):
    return {f"state{number}": state.numpy() for number, state in enumerate(states)}


def _fill(model):
    import torch  # pyright: ignore[reportMissingImports]

    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: torch.tensor(w) for name, w in weights(shapes).items()})
    return shapes


if __name__ == "__main__":
    recorded = {}
    for model_name, (model_shapes, outputs) in compute().items():
        recorded[f"{model_name}/shapes"] = json.dumps(model_shapes)
        recorded |= {f"{model_name}/{name}": values for name, values in outputs.items()}
    np.savez_compressed(DATA, **recorded)
