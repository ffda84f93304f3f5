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

Kind = Literal["linear", "conv", "pointwise", "norm", "tensor", "positions", "kernel"]

_LEAVES = {
    "linear": {"weight": "kernel", "bias": "bias"},
    "conv": {"weight": "kernel", "bias": "bias"},
    "pointwise": {"weight": "kernel", "bias": "bias"},
    "norm": {"weight": "scale", "bias": "bias"},
}
_CONV = range(3, 6)  # by one to three spatial axes
_RANKS: dict[Kind, tuple[int, ...] | range] = {
    "linear": (2,),
    "conv": _CONV,
    "kernel": _CONV,
    "pointwise": _CONV,
    "positions": (3,),
}
_WHOLE: tuple[Kind, ...] = ("tensor", "positions", "kernel")


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""Where a module or a tensor goes.

    Attributes:
        pattern: regular expression of the whole name, for modules without ".weight" or ".bias"
            ("tensor", "positions" and "kernel" name a tensor, the other kinds a module).
        target: path of the parameter, joined by "/"; `\1` inserts a group of the pattern.
        kind: "linear", "conv" and "pointwise" (a convolution by single pixels that becomes a
            linear layer) turn weights around, "norm" renames them; "tensor" drops axes of length 1
            that are too many, leading ones first; "positions" adds the first position, the class
            token's, to all others; "kernel" turns a tensor as "conv" does a weight.
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


def plan(
    shapes: Mapping[str, tuple[int, ...]],
    rules: Sequence[Rule],
    skips: Sequence[Skip],
    expected: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, tuple[str, Kind]], ImportReport]:
    """Decide where a checkpoint's tensors go, by their names and shapes.

    Args:
        shapes: of the tensors by name.
        rules: where tensors go; the first that fits decides.
        skips: what is left out; asked before the rules.
        expected: shape of every parameter of the model by its path, joined by "/".

    Returns:
        For every parameter that is found the tensor's name and how `arrange` turns it; the report.

    Raises:
        InputError: a tensor does not have the parameter's shape, or two claim one parameter.
    """
    used, skipped, unknown = {}, {}, []
    sources: dict[str, tuple[str, Kind]] = {}
    for name, shape in shapes.items():
        reason = next((skip.reason for skip in skips if re.fullmatch(skip.pattern, name)), None)
        if reason is not None:
            skipped[name] = reason
            continue
        placed = place(name, rules)
        if placed is None or placed[0] not in expected:
            unknown.append(name)
            continue
        path, kind = placed
        if path in sources:
            raise InputError(
                f"{name} and {sources[path][0]} both become {path}; remove one from the checkpoint"
            )
        if _shape(shape, kind, len(expected[path])) != tuple(expected[path]):
            raise InputError(
                f"{name} of shape {tuple(shape)} cannot become {path} of shape"
                f" {tuple(expected[path])}; choose the configuration that belongs to the checkpoint"
            )
        used[name] = path
        sources[path] = name, kind
    missing = tuple(sorted(set(expected) - set(sources)))
    return sources, ImportReport(used, skipped, tuple(unknown), missing)


def convert(
    tensors: Mapping[str, Any],
    rules: Sequence[Rule],
    skips: Sequence[Skip],
    expected: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, Any], ImportReport]:
    """Arrange a checkpoint's tensors as parameters.

    Args:
        tensors: arrays, or what becomes one, by name; only those that are used are read.
        rules: as for `plan`, like the others.
        skips: what is left out.
        expected: shapes of the model's parameters.

    Returns:
        Nested dict of the parameters that were found (views of the arrays where possible), and
        the report.

    Raises:
        InputError: as `plan`.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    sources, report = plan(shapes, rules, skips, expected)
    params: dict[str, Any] = {}
    for path, (name, kind) in sources.items():
        *folders, leaf = path.split("/")
        folder = params
        for part in folders:
            folder = folder.setdefault(part, {})
        folder[leaf] = arrange(np.asarray(tensors[name]), kind, len(expected[path]))
    return params, report


def place(name: str, rules: Sequence[Rule]) -> tuple[str, Kind] | None:
    """Return the path and the kind of a tensor; None when no rule knows it."""
    module, _, leaf = name.rpartition(".")
    for rule in rules:
        if rule.kind in _WHOLE:
            if found := re.fullmatch(rule.pattern, name):
                return found.expand(rule.target), rule.kind
        elif leaf in _LEAVES[rule.kind] and (found := re.fullmatch(rule.pattern, module)):
            target = f"{found.expand(rule.target)}/{_LEAVES[rule.kind][leaf]}"
            return target, rule.kind if leaf == "weight" else "norm"
    return None


@dataclasses.dataclass(frozen=True)
class Arranged:
    """A parameter whose tensor is read, and turned around, when NumPy asks for it.

    Attributes:
        tensor: what becomes an array.
        kind: how it is turned.
        shape: of the parameter.
    """

    tensor: Any
    kind: Kind
    shape: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(arrange(np.asarray(self.tensor), self.kind, len(self.shape)), dtype)


def arrange(array: np.ndarray, kind: Kind, rank: int) -> np.ndarray:
    """Turn a tensor around, as its kind asks (see `Rule`), for a parameter of `rank` axes."""
    match kind:
        case "linear":
            return array.T
        case "conv" | "kernel":
            return array.transpose(*range(2, array.ndim), 1, 0)
        case "pointwise":
            return array.reshape(array.shape[:2]).T
        case "positions":
            return array[0, 1:] + array[0, :1]
        case "tensor":
            while array.ndim > rank and array.shape[0] == 1:
                array = array[0]
            while array.ndim > rank and array.shape[-1] == 1:
                array = array[..., 0]
    return array


def _shape(shape: Sequence[int], kind: Kind, rank: int) -> tuple[int, ...] | None:
    """Return the shape after `arrange`; None when no such tensor can be arranged."""
    if kind in _RANKS and len(shape) not in _RANKS[kind]:
        return None
    if kind == "pointwise" and set(shape[2:]) != {1}:
        return None
    if kind == "positions" and (shape[0] != 1 or shape[1] < 2):
        return None
    return arrange(np.broadcast_to(np.int8(0), shape), kind, rank).shape
