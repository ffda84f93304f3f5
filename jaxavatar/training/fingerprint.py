"""What identifies a training state bit for bit, wherever its parts lie.

A leaf's fingerprint is the sum, modulo 2^32, of its words times odd numbers that depend on their
places. Sums of integers do not depend on their order, so a state has the same fingerprints on one
device as spread over many, and no part of it travels. A change of one word always changes the
sum, since odd numbers have inverses; any other change goes unseen once in four billion times.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt32

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


@jax.jit
def fingerprint(tree: Any) -> tuple[UInt32[Array, " L"], Bool[Array, ""]]:
    """Return the fingerprints of the leaves, and whether all their numbers are finite."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    finite = [jnp.isfinite(x).all() for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([_sum(leaf) for leaf in leaves]), jnp.array(finite).all()


def _sum(leaf: Array) -> UInt32[Array, ""]:
    if leaf.dtype == jnp.bool:
        leaf = leaf.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(leaf, _WORDS[leaf.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(words.shape):  # the flat index, without flattening
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    place = place * jnp.uint32(0x9E3779B1)
    place = (place ^ (place >> 15)) * jnp.uint32(0x85EBCA77)
    return jnp.sum(words * ((place ^ (place >> 13)) | 1), dtype=jnp.uint32)
