"""`vmap` by a loop, for functions that fill the device with one example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `vmap` run a function for one example after the other, and its tangents likewise.

    `jax.custom_batching.sequential_vmap` (jax 0.10) fails in forward mode where a tangent is
    mapped and what it is a tangent of is not, or the other way round.

    Args:
        function: takes and returns pytrees of arrays, and can be differentiated in forward mode.
    """
    mapped = custom_vmap(function)

    @mapped.def_vmap
    def batch(axis_size, in_batched, *arguments):  # pyright: ignore[reportUnusedFunction]
        del axis_size
        chosen = jax.tree.leaves(in_batched)
        batches, shared, merge = _split(arguments, chosen)
        out = lax.map(lambda batches: mapped(*merge(batches, shared)), batches)
        return out, jax.tree.map(lambda _: True, out)

    differentiable = jax.custom_jvp(mapped)

    @differentiable.defjvp
    def jvp(primals, tangents):  # pyright: ignore[reportUnusedFunction]
        chosen = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(primals)]
        moving = _split(tangents, chosen)[0]

        @one_by_one
        def push(primals, moving):
            floating, others, merge = _split(primals, chosen)
            along = lambda floating: function(*merge(floating, others))  # noqa: E731
            return jax.jvp(along, (floating,), (moving,))[1]

        # Apart from its tangent, so that it is not mapped where only tangents are.
        return differentiable(*primals), push(primals, moving)

    return differentiable


def _split(tree, chosen: list[bool]):
    """Return the chosen leaves, the others, and what puts the tree together again."""
    leaves, structure = jax.tree.flatten(tree)

    def merge(first, second):
        first, second = iter(first), iter(second)
        return jax.tree.unflatten(structure, [next(first if its else second) for its in chosen])

    first = [leaf for leaf, its in zip(leaves, chosen, strict=True) if its]
    second = [leaf for leaf, its in zip(leaves, chosen, strict=True) if not its]
    return first, second, merge
