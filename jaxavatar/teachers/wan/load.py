"""Read released checkpoints of Wan2.1 and OmniAvatar (Apache-2.0), in safetensors files.

OmniAvatar's file holds changes to Wan's: low-rank ones, W + (alpha / r) B A, which are merged
here, a patch embedding with more input channels, and the audio adapter.
"""

import functools
import os
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from jaxavatar.errors import InputError
from jaxavatar.teachers.wan.config import AutoencoderConfig, TransformerConfig
from jaxavatar.teachers.wan.init import init_autoencoder, init_transformer, shapes_of
from jaxavatar.teachers.wan.names import autoencoder_rules, transformer_rules
from jaxavatar.weights.tensor_file import SafetensorsFile, StoredTensor
from jaxavatar.weights.torch_names import ImportReport, Rule, convert, place

Path = str | os.PathLike[str]
Params = dict[str, Any]

_PICKLED = {".pt", ".pth", ".bin", ".ckpt"}
_PREFIX = "model.diffusion_model."
_LOW_RANK = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")


def load_transformer(
    config: TransformerConfig,
    base: Path | Sequence[Path],
    adapter: Path | None = None,
    alpha: float = 64.0,
    half: bool = False,
) -> tuple[Params, ImportReport]:
    """Read a transformer.

    Args:
        config: what the files hold.
        base: safetensors file of Wan2.1-T2V, or the shards of one, in the authors' spelling or in
            diffusers'.
        adapter: OmniAvatar's safetensors file; its tensors replace or change those of `base`.
        alpha: of its low-rank changes, `lora_alpha` of the checkpoint's config.json.
        half: keep matrices in bfloat16; all else is float32.

    Returns:
        Parameters of `WanTransformer`, and what became of every tensor.

    Raises:
        InputError: a file is bad or pickled, does not fit the config, or parameters are missing.
    """
    rules = transformer_rules(config)
    expected = shapes_of(functools.partial(init_transformer, config))
    stored = _open([base] if isinstance(base, str | os.PathLike) else base)
    changes: dict[str, dict[str, tuple[str, StoredTensor]]] = {}
    if adapter is not None:
        extra = _open([adapter])
        changes = _low_rank(extra, rules, expected)
        kept = {name: t for name, t in extra.items() if not _LOW_RANK.fullmatch(name)}
        replaced = {placed[0] for name in kept if (placed := place(name, rules))}
        stored = {
            name: tensor
            for name, tensor in stored.items()
            if (placed := place(name, rules)) is None or placed[0] not in replaced
        } | kept
    params, report = convert(stored, rules, (), expected)
    _insist(report, "Wan2.1's transformer with this configuration")
    report.used.update({name: path for path, pair in changes.items() for name, _ in pair.values()})
    return _typed(params, half, _merger(changes, alpha, expected)), report


def load_autoencoder(
    config: AutoencoderConfig, path: Path, half: bool = False
) -> tuple[Params, ImportReport]:
    """Read Wan2.1's video autoencoder, in the authors' spelling or in diffusers'.

    Args:
        config: what the file holds.
        path: safetensors file.
        half: keep kernels in bfloat16; all else is float32.

    Returns:
        Parameters {"encoder": of `WanEncoder`, "decoder": of `WanDecoder`}, and the report.

    Raises:
        InputError: as `load_transformer`.
    """
    expected = shapes_of(functools.partial(init_autoencoder, config))
    params, report = convert(_open([path]), autoencoder_rules(config), (), expected)
    _insist(report, "Wan2.1's autoencoder")
    return _typed(params, half, lambda _, array: array), report


def _open(paths: Sequence[Path]) -> dict[str, StoredTensor]:
    tensors = {}
    for path in paths:
        name = pathlib.Path(path)
        if name.is_file() and (name.suffix in _PICKLED or zipfile.is_zipfile(name)):
            raise InputError(
                f"{path} is a pickled checkpoint, which could run code; where PyTorch is installed,"
                ' convert it with: python -c "import torch, safetensors.torch as s;'
                f" s.save_file({{k: v.contiguous() for k, v in torch.load('{name.name}',"
                " map_location='cpu', weights_only=True).items()},"
                f" '{name.stem}.safetensors')\""
            )
        file = SafetensorsFile(path)
        tensors |= {_plain(name): file.stored(name) for name in file}
    return tensors


def _plain(name: str) -> str:
    """Take away what tools add to names."""
    return name.removeprefix(_PREFIX).replace(".base_layer.", ".")


def _low_rank(
    tensors: Mapping[str, StoredTensor],
    rules: Sequence[Rule],
    expected: Mapping[str, tuple[int, ...]],
) -> dict[str, dict[str, tuple[str, StoredTensor]]]:
    """Collect the factors A and B by the parameter that they change."""
    changes: dict[str, dict[str, tuple[str, StoredTensor]]] = {}
    for name, tensor in tensors.items():
        if found := _LOW_RANK.fullmatch(name):
            placed = place(f"{found[1]}.weight", rules)
            if placed is None or placed[0] not in expected:
                raise InputError(
                    f"{name} changes a layer that this configuration does not have; choose the one"
                    " that belongs to the checkpoint"
                )
            changes.setdefault(placed[0], {})[found[2]] = name, tensor
    for path, pair in changes.items():
        if set(pair) != {"A", "B"}:
            raise InputError(f"the low-rank change of {path} lacks a factor; convert it anew")
    return changes


def _merger(
    changes: Mapping[str, Mapping[str, tuple[str, StoredTensor]]],
    alpha: float,
    expected: Mapping[str, tuple[int, ...]],
) -> Any:
    def merge(path: str, array: np.ndarray) -> np.ndarray:
        if path not in changes:
            return array
        down, up = (np.asarray(changes[path][part][1]).astype(np.float32) for part in "AB")
        if (down.shape[1], up.shape[0]) != expected[path] or len(down) != up.shape[1]:
            raise InputError(
                f"the low-rank change of {path} has factors {down.shape} and {up.shape}; choose"
                " the configuration that belongs to the checkpoint"
            )
        return array.astype(np.float32) + alpha / len(down) * (up @ down).T

    return merge


def _typed(params: Params, half: bool, change: Any) -> Params:
    """Put parameters on the device, one at a time, in their types."""
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    for path in list(flat):
        array = change(path, flat.pop(path))
        kind = jnp.bfloat16 if half and path.endswith("kernel") else jnp.float32
        flat[path] = jnp.asarray(np.asarray(array).astype(kind))
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _insist(report: ImportReport, title: str) -> None:
    for names, what in (
        (report.unknown, "unknown tensors"),
        (report.missing, "missing parameters"),
    ):
        if names:
            raise InputError(
                f"the checkpoint does not fit {title}: {len(names)} {what}, such as {names[0]};"
                " check the files and the configuration"
            )
