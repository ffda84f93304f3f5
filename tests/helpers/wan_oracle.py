"""Wan2.1's networks as diffusers computes them, for random weights, block by block.

Run with torch and diffusers installed, it records what they compute:

    python tests/helpers/wan_oracle.py

Weights and inputs come from NumPy's frozen generator, so only shapes and outputs are recorded. The
audio adapter, which diffusers lacks, is written here from its description and hooked into
diffusers' blocks.
"""

import json
import math
import pathlib

import numpy as np

DATA = pathlib.Path(__file__).parents[1] / "teachers" / "wan" / "diffusers.npz"
LAYERS, WIDTH, HEADS, HIDDEN, TEXT, FEATURES, PACKED = 6, 24, 2, 32, 16, 20, 8
GRID = (3, 4, 6)


def weights(shapes, seed):
    """Make random weights of a size at which activations stay of order 1."""
    random = np.random.RandomState(seed)
    made = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        values = random.standard_normal(shape)
        if name.endswith(("gamma", "norm_q.weight", "norm_k.weight", "norm_out.weight")) or (
            name.endswith("norm2.weight")
        ):
            values = 1 + 0.2 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        else:
            values = values / math.sqrt(math.prod(shape[1:]))
        made[name] = values.astype(np.float32)
    return made


def transformer_inputs():
    random = np.random.RandomState(1)
    return {
        "latents": random.standard_normal((2, *GRID, 33)).astype(np.float32),
        "time": np.array([500.0, 37.0], np.float32),
        "text": random.standard_normal((2, 12, TEXT)).astype(np.float32),
        "audio": random.standard_normal((2, 4 * (GRID[0] - 1) + 1, FEATURES)).astype(np.float32),
    }


def autoencoder_inputs():
    random = np.random.RandomState(2)
    return {
        "frames": random.uniform(size=(1, 9, 16, 16, 3)).astype(np.float32),
        "latents": random.standard_normal((1, 3, 2, 2, 16)).astype(np.float32),
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
            for model in ("transformer", "heard", "autoencoder")
        }


def compute():
    """Compute the same with torch and diffusers."""
    return {
        "transformer": _transformer(heard=False),
        "heard": _transformer(heard=True),
        "autoencoder": _autoencoder(),
    }


def _transformer(heard):
    import torch  # pyright: ignore[reportMissingImports]
    from diffusers import WanTransformer3DModel  # pyright: ignore[reportMissingImports]

    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=33,
        out_channels=16,
        text_dim=TEXT,
        freq_dim=16,
        ffn_dim=HIDDEN,
        num_layers=LAYERS,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    ).eval()
    inputs = transformer_inputs()
    if heard:
        adapter = _adapter()
        for name, part in adapter.named_children():
            model.add_module(name, part)
    shapes = _fill(model)
    outputs = {}
    if heard:
        _listen(model, torch.tensor(inputs["audio"]))
    else:
        _record(model.patch_embedding, "patches", outputs, channels_first=True)
        _record(model.condition_embedder, "time/text", outputs)
        _record(model.blocks[0].attn1, "block0/self_attention", outputs)
        _record(model.blocks[0].attn2, "block0/cross_attention", outputs)
        _record(model.blocks[0].ffn, "block0/feed_forward", outputs)
        for number, block in enumerate(model.blocks[:2]):
            _record(block, f"block{number}", outputs)
    with torch.no_grad():
        latents = torch.tensor(inputs["latents"]).permute(0, 4, 1, 2, 3)
        out = model(latents, torch.tensor(inputs["time"]), torch.tensor(inputs["text"])).sample
    outputs["output"] = out.permute(0, 2, 3, 4, 1).numpy()
    return shapes, outputs


def _adapter():
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    adapter = nn.Module()
    adapter.audio_proj = nn.Module()
    adapter.audio_proj.proj = nn.Linear(4 * FEATURES, PACKED)
    adapter.audio_proj.norm_out = nn.LayerNorm(PACKED)
    listening = range(2, LAYERS // 2 + 1)
    adapter.audio_cond_projs = torch.nn.ModuleList(nn.Linear(PACKED, WIDTH) for _ in listening)
    return adapter


def _listen(model, audio):
    """Add to every token of a latent frame what its four frames of audio project to."""
    import torch  # pyright: ignore[reportMissingImports]

    frames = torch.cat([audio[:, :1]] * 3 + [audio], dim=1)
    groups = torch.stack([frames[:, 4 * f : 4 * f + 4].flatten(1) for f in range(GRID[0])], dim=1)
    packed = model.audio_proj.norm_out(model.audio_proj.proj(groups))
    tokens = GRID[1] * GRID[2] // 4

    def hook(index):
        added = model.audio_cond_projs[index](packed).repeat_interleave(tokens, dim=1)
        return lambda _, arguments: (arguments[0] + added, *arguments[1:])

    for index, layer in enumerate(range(2, LAYERS // 2 + 1)):
        model.blocks[layer].register_forward_pre_hook(hook(index))


def _autoencoder():
    import torch  # pyright: ignore[reportMissingImports]
    from diffusers import AutoencoderKLWan  # pyright: ignore[reportMissingImports]

    model = AutoencoderKLWan(base_dim=3, z_dim=16, num_res_blocks=1).eval()
    shapes = _fill(model)
    inputs = autoencoder_inputs()
    outputs = {}
    encoder, decoder = model.encoder, model.decoder
    for name, part in (
        ("first", encoder.conv_in),
        *((f"down{n}", block) for n, block in enumerate(encoder.down_blocks)),
        ("middle0", encoder.mid_block.resnets[0]),
        ("attention", encoder.mid_block.attentions[0]),
        ("middle1", encoder.mid_block.resnets[1]),
    ):
        _record(part, f"encoder/{name}", outputs, channels_first=True)
    for number, block in enumerate(decoder.up_blocks):
        _record(block, f"decoder/up{number}", outputs, channels_first=True)
    mean, deviation = (
        torch.tensor(numbers)[:, None, None, None]
        for numbers in (model.config.latents_mean, model.config.latents_std)
    )
    with torch.no_grad():
        frames = torch.tensor(2 * inputs["frames"] - 1).permute(0, 4, 1, 2, 3)
        latents = (model.encode(frames).latent_dist.mode() - mean) / deviation
        given = torch.tensor(inputs["latents"]).permute(0, 4, 1, 2, 3)
        decoded = model.decode(given * deviation + mean).sample
    outputs["latents"] = latents.permute(0, 2, 3, 4, 1).numpy()
    outputs["decoded"] = (decoded.permute(0, 2, 3, 4, 1).numpy() + 1) / 2
    return shapes, outputs


def _fill(model):
    import torch  # pyright: ignore[reportMissingImports]

    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({k: torch.tensor(v) for k, v in weights(shapes, 0).items()})
    return shapes


def _record(module, name, outputs, channels_first=False):
    """Keep a module's output; of several calls, piece by piece, all one after the other."""

    def hook(_, __, result):
        if isinstance(result, tuple):
            outputs["time/code"], outputs["time/six"], outputs["text_out"] = (
                part.detach().numpy() for part in result[:3]
            )
            return
        array = result.detach()
        if channels_first:
            array = array.permute(0, 2, 3, 4, 1)
        parts = [outputs[name]] if name in outputs else []
        outputs[name] = np.concatenate([*parts, array.numpy()], axis=1)

    module.register_forward_hook(hook)


if __name__ == "__main__":
    arrays = {}
    for model, (shapes, outputs) in compute().items():
        arrays[f"{model}/shapes"] = np.array(json.dumps(shapes))
        arrays |= {f"{model}/{name}": array for name, array in outputs.items()}
    DATA.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(DATA, **arrays)
    print(DATA, DATA.stat().st_size)
