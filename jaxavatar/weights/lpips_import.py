"""LPIPS's VGG16 and linear layers, by the names of torchvision's and LPIPS's own files.

torchvision calls the convolutions `features.N`, LPIPS's whole model `net.sliceS.N`; the linear
layers, one weight per channel, are `linK.model.1.weight` (and once more `lins.K...`).
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxavatar.weights.lhm_import import Release
from jaxavatar.weights.tensor_file import SafetensorsFile, write_tensors
from jaxavatar.weights.torch_names import ImportReport, Rule, Skip, convert
from jaxavatar.weights.torch_pickle import read_pickled

# Numbers of the convolutions in torchvision's list of layers, which counts ReLUs and poolings too.
_NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))

RULES = (
    *(
        Rule(rf"(?:features|net\.slice\d)\.{number}", f"conv{stage}_{place}", "conv")
        for stage, numbers in enumerate(_NUMBERS)
        for place, number in enumerate(numbers)
    ),
    Rule(r"lin(\d)\.model\.1\.weight", r"channels/layer\1", "tensor"),
)
SKIPS = (
    Skip(r"classifier\..*", "the classifier above the convolutions"),
    Skip(r"lins\..*", "the linear layers once more"),
    Skip(r"scaling_layer\..*", "constant"),
)

LPIPS = Release(
    "LPIPS",
    "BSD-2-Clause for the linear layers, BSD-3-Clause for torchvision, whose VGG16 was trained on"
    " ImageNet",
    "https://github.com/richzhang/PerceptualSimilarity and https://github.com/pytorch/vision",
    False,
    RULES,
    SKIPS,
)


def import_lpips(
    path: str | os.PathLike[str],
    expected: Mapping[str, tuple[int, ...]],
    out: str | os.PathLike[str],
    into: str | os.PathLike[str] | None,
    half: bool,
) -> ImportReport:
    """Write a file's tensors under our names.

    Args:
        path: VGG16, the linear layers, or both: safetensors, or a `.pth` file.
        expected: shape of every parameter by its path.
        out: result.
        into: an earlier result that is added to; same parameters are replaced.
        half: store float16.

    Raises:
        InputError: a file cannot be read or written, or a tensor has another shape.
    """
    safe = pathlib.Path(path).suffix == ".safetensors"
    tensors: Mapping[str, Any] = SafetensorsFile(path) if safe else read_pickled(path)
    params, report = convert(dict(tensors), RULES, SKIPS, expected)
    flat: dict[str, np.ndarray] = {}
    if into is not None:
        flat |= dict(SafetensorsFile(into))
    for folder, leaves in params.items():
        flat |= {f"{folder}/{leaf}": array for leaf, array in leaves.items()}
    write_tensors(out, flat, {"kind": "lpips"}, np.float16 if half else np.float32)
    return dataclasses.replace(
        report, missing=tuple(name for name in report.missing if name not in flat)
    )
