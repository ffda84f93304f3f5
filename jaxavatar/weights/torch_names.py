"""Rename and rearrange the tensors of PyTorch checkpoints into nested Flax parameters.

A table of rules says where each tensor goes. Everything is accounted for: tensors that are used,
that are left out on purpose, that no rule knows, and parameters that the checkpoint lacks.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxavatar.errors import InputError

Kind = Literal["linear", "conv", "pointwise", "norm", "tensor", "positions"]

_LEAVES = {
    "linear": {"weight": "kernel", "bias": "bias"},
    "conv": {"weight": "kernel", "bias": "bias"},
    "pointwise": {"weight": "kernel", "bias": "bias"},
    "norm": {"weight": "scale", "bias": "bias"},
}


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""Where a module or a tensor goes.

    Attributes:
        pattern: regular expression of the whole name, for modules without ".weight" or ".bias".
        target: path of the parameter, joined by "/"; `\1` inserts a group of the pattern.
        kind: "linear", "conv" and "pointwise" (a convolution by single pixels that becomes a
            linear layer) turn weights around, "norm" renames them; "tensor" drops leading axes of
            length 1; "positions" adds the first position, the class token's, to all others.
    """

    pattern: str
    target: str
    kind: Kind


@dataclasses.dataclass(frozen=True)
class Skip:
    """Tensors that are left out on purpose: a regular expression of their names, and why."""

    pattern: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What became of a checkpoint.

    Attributes:
        used: name of each tensor that was taken, and its parameter.
        skipped: name of each tensor that was left out on purpose, and why.
        unknown: names that no rule knows, or whose parameter the model does not have.
        missing: parameters of the model that the checkpoint does not have.
    """

    used: dict[str, str]
    skipped: dict[str, str]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        """Return counts, and the names of what is unknown."""
        counts = collections.Counter(self.skipped.values())
        parts = collections.Counter(path.partition("/")[0] for path in self.missing)
        return "\n".join(
            [
                f"{len(self.used)} tensors used",
                *(f"{count} tensors skipped: {reason}" for reason, count in counts.items()),
                *(f"unknown tensor: {name}" for name in self.unknown),
                *(f"{count} parameters of {part} missing" for part, count in parts.items()),
            ]
        )


def convert(
    tensors: Mapping[str, Any],
    rules: Sequence[Rule],
    skips: Sequence[Skip],
    expected: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, Any], ImportReport]:
    """Arrange a checkpoint's tensors as parameters.

    Args:
        tensors: arrays by name; only those that are used are read.
        rules: where tensors go; the first that fits decides.
        skips: what is left out; asked before the rules.
        expected: shape of every parameter of the model by its path, joined by "/".

    Returns:
        Nested dict of the parameters that were found (views of the arrays where possible), and
        the report.

    Raises:
        InputError: a tensor does not have the parameter's shape.
    """
    used, skipped, unknown = {}, {}, []
    params: dict[str, Any] = {}
    for name in tensors:
        reason = next((skip.reason for skip in skips if re.fullmatch(skip.pattern, name)), None)
        if reason is not None:
            skipped[name] = reason
            continue
        path, kind = place(name, rules) or ("", None)
        if kind is None or path not in expected:
            unknown.append(name)
            continue
        array = _arranged(np.asarray(tensors[name]), kind)
        if array.shape != tuple(expected[path]):
            raise InputError(
                f"{name} becomes {path} of shape {array.shape}, the model has {expected[path]};"
                " choose the configuration that belongs to the checkpoint"
            )
        used[name] = path
        *folders, leaf = path.split("/")
        folder = params
        for part in folders:
            folder = folder.setdefault(part, {})
        folder[leaf] = array
    missing = tuple(sorted(set(expected) - set(used.values())))
    return params, ImportReport(used, skipped, tuple(unknown), missing)


def place(name: str, rules: Sequence[Rule]) -> tuple[str, Kind] | None:
    """Return the path and the kind of a tensor; None when no rule knows it."""
    module, _, leaf = name.rpartition(".")
    for rule in rules:
        if rule.kind in ("tensor", "positions"):
            if found := re.fullmatch(rule.pattern, name):
                return found.expand(rule.target), rule.kind
        elif leaf in _LEAVES[rule.kind] and (found := re.fullmatch(rule.pattern, module)):
            target = f"{found.expand(rule.target)}/{_LEAVES[rule.kind][leaf]}"
            return target, rule.kind if leaf == "weight" else "norm"
    return None


def _arranged(array: np.ndarray, kind: Kind) -> np.ndarray:
    match kind:
        case "linear":
            return array.T
        case "conv":
            return array.transpose(2, 3, 1, 0)
        case "pointwise":
            return array[..., 0, 0].T
        case "positions":
            return array[0, 1:] + array[0, :1]
        case "tensor":
            while array.ndim > 1 and array.shape[0] == 1:
                array = array[0]
    return array
