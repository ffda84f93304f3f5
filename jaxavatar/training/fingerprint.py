"""What identifies a training state bit for bit, wherever its parts lie.

A leaf's fingerprint is the sum, modulo 2^32, of its words, each scrambled together with its place
by a function that has an inverse. Sums of integers do not depend on their order, so a state has
the same fingerprints on one device as spread over many, and no part of it travels. A change of
one word always changes the sum; any other change goes unseen once in four billion times.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_PLACES, _FIRST, _SECOND = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


def fingerprint(tree: Any) -> tuple[list[int], bool]:
    """Return the fingerprints of the leaves, and whether all their numbers are finite.

    Leaves have numbers of up to 32 bits.
    """
    found = jax.device_get(
        [_on_host(x) if _is_on_host(x) else _on_device(x) for x in _leaves(tree)]
    )
    return [int(total) for total, _ in found], all(bool(finite) for _, finite in found)


def _leaves(tree: Any) -> list[jax.Array]:
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def _is_on_host(leaf: jax.Array) -> bool:
    return leaf.is_fully_addressable and all(d.platform == "cpu" for d in leaf.devices())


def _on_host(leaf: jax.Array) -> tuple[Any, Any]:
    """Spare CPUs the compilation, which for many shapes takes longer than the sums."""
    return _sum(np.atleast_1d(np.asarray(leaf)), np)


@jax.jit
def _on_device(leaf: jax.Array) -> tuple[Any, Any]:
    return _sum(jnp.atleast_1d(leaf), jnp)


def _sum(leaf: Any, xp: ModuleType) -> tuple[Any, Any]:
    """Return the fingerprint of an array of NumPy or JAX, and whether it is finite."""
    finite = xp.isfinite(leaf).all()
    if leaf.dtype == bool:
        leaf = leaf.astype(np.uint8)
    words = leaf.view(_WORDS[leaf.dtype.itemsize]).astype(np.uint32)
    place = xp.zeros([1] * words.ndim, np.uint32)
    for axis, size in enumerate(words.shape):  # the flat index, without flattening
        along = xp.arange(size, dtype=np.uint32).reshape(
            [-1 if a == axis else 1 for a in range(words.ndim)]
        )
        place = place * np.uint32(size) + along
    mixed = words ^ (place * _PLACES)
    mixed = (mixed ^ (mixed >> 16)) * _FIRST
    mixed = (mixed ^ (mixed >> 13)) * _SECOND
    return xp.sum(mixed ^ (mixed >> 16), dtype=np.uint32), finite
