"""One custom rule for both modes of differentiation.

JAX lets a function have a custom JVP or a custom VJP. An engine that composites by hand needs both:
forward mode by its tangent kernel, reverse mode by its gradient kernel. `two_way` gives it both:
the JVP rule's tangent map is one primitive that knows its own transpose.

The primitive is what `jax.custom_derivatives.linear_call` is, with two rules that one lacks: it can
be mapped (`vmap`), and its residuals can be differentiated in forward mode, which gives second
derivatives wherever JAX can differentiate the tangent and gradient maps themselves.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import PyTree

Function = Callable[..., Any]


def two_way(
    forward: Function, tangent: Function, cotangent: Function, value: Function | None = None
) -> Function:
    """Build a function that is differentiable once in both modes from its value and linear maps.

    Args:
        forward: `(static, arguments, constants) -> (outputs, residuals)`.
        tangent: `(static, residuals, argument tangents) -> output tangents`, linear in the
            tangents; it has to return a tangent for every output.
        cotangent: `(static, residuals, output cotangents) -> argument cotangents`, its transpose.
        value: `(static, arguments, constants) -> outputs`, the same as `forward`'s, for calls that
            are not differentiated; None takes `forward`.

    Returns:
        `function(static, arguments, constants) -> outputs`. `static` is hashable; `arguments` and
        outputs are pytrees of floating arrays; `constants` is a pytree of arrays that carry no
        derivative.
    """

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def differentiable(static, *inputs):
        outputs = value(static, *inputs) if value else forward(static, *inputs)[0]
        return _map_together(outputs, inputs)

    @differentiable.defjvp
    def rule(static, primals, tangents):  # pyright: ignore[reportUnusedFunction]
        outputs, residuals = forward(static, *primals)
        maps = functools.partial(tangent, static), functools.partial(cotangent, static)
        return _map_together(outputs, primals), linear_map(*maps, residuals, tangents[0])

    def function(static, arguments: PyTree, constants: PyTree) -> PyTree:
        arguments, constants = vary_together((arguments, constants))
        return differentiable(static, arguments, lax.stop_gradient(constants))

    return function


def linear_map(apply: Function, transpose: Function, residuals: PyTree, x: PyTree) -> PyTree:
    """Apply a map that is linear in x and whose transpose is known.

    Args:
        apply: `(residuals, x) -> y`.
        transpose: `(residuals, y) -> x`.
        residuals: arrays that the map depends on otherwise.
        x: floating arrays.

    Returns:
        y, floating arrays.
    """
    residual_leaves, residual_tree = jax.tree.flatten(residuals)
    x_leaves, x_tree = jax.tree.flatten(x)
    y_tree = jax.tree.structure(jax.eval_shape(apply, residuals, x))

    def flat(function, in_tree):
        def flattened(residual_leaves, in_leaves):
            arguments = jax.tree.unflatten(residual_tree, residual_leaves)
            return jax.tree.leaves(function(arguments, jax.tree.unflatten(in_tree, in_leaves)))

        return flattened

    y_leaves = _linear_map.bind(
        *residual_leaves,
        *x_leaves,
        apply=flat(apply, x_tree),
        transpose=flat(transpose, y_tree),
        n_residuals=len(residual_leaves),
    )
    return jax.tree.unflatten(y_tree, y_leaves)


def _map_together(outputs: PyTree, inputs: PyTree) -> PyTree:
    """Let `vmap` map all outputs where it maps any input.

    It maps all their tangents there, and what JAX keeps of a function in `jit` (0.10 to 0.12) has
    to map the value of an output if its tangent is mapped.
    """
    # Nothing but the batch axes of the inputs: sums over no elements.
    witnesses = [jnp.sum(leaf.reshape(-1)[:0]) for leaf in jax.tree.leaves(inputs)]
    same = lambda _, x: x  # noqa: E731
    return linear_map(same, same, lax.stop_gradient(witnesses), outputs)


def vary_together(arrays: PyTree) -> PyTree:
    """Let all arrays of a pytree vary over the axes of a `shard_map` that any varies over.

    JAX then adds up the gradients of those arrays that the shards have in common.
    """
    axes = varying_axes(arrays)
    return jax.tree.map(lambda array: vary(array, axes), arrays)


def varying_axes(arrays: PyTree) -> frozenset[str]:
    """Return the axes of a `shard_map` that any array of a pytree varies over."""
    axes = (jax.typeof(array).manual_axis_type.varying for array in jax.tree.leaves(arrays))
    return frozenset().union(*axes)


def vary(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Let an array vary over axes of a `shard_map`."""
    missing = tuple(axes - varying_axes(array))
    return lax.pcast(array, missing, to="varying") if missing else array


_linear_map = Primitive("pallas_splat_linear_map")
_linear_map.multiple_results = True


def _evaluate(*leaves, apply, transpose, n_residuals):
    del transpose
    return apply(list(leaves[:n_residuals]), list(leaves[n_residuals:]))


def _abstract(*leaves, apply, transpose, n_residuals):
    del transpose
    return jax.make_jaxpr(apply)(list(leaves[:n_residuals]), list(leaves[n_residuals:])).out_avals


def _jvp(primals, tangents, **params):
    n = params["n_residuals"]
    residuals, x = list(primals[:n]), list(primals[n:])
    x_tangents = [ad.instantiate_zeros(tangent) for tangent in tangents[n:]]
    y = _linear_map.bind(*primals, **params)
    y_tangents = _linear_map.bind(*residuals, *x_tangents, **params)
    if any(type(tangent) is not ad.Zero for tangent in tangents[:n]):
        moved = [ad.instantiate_zeros(tangent) for tangent in tangents[:n]]
        further = jax.jvp(lambda leaves: params["apply"](leaves, x), (residuals,), (moved,))[1]
        y_tangents = [a + b for a, b in zip(y_tangents, further, strict=True)]
    return y, y_tangents


def _transpose(cotangents, *leaves, apply, transpose, n_residuals):
    x_cotangents = _linear_map.bind(
        *leaves[:n_residuals],
        *(ad.instantiate_zeros(cotangent) for cotangent in cotangents),
        apply=transpose,
        transpose=apply,
        n_residuals=n_residuals,
    )
    wanted = [ad.is_undefined_primal(leaf) for leaf in leaves[n_residuals:]]
    return [None] * n_residuals + [
        cotangent if is_wanted else None
        for cotangent, is_wanted in zip(x_cotangents, wanted, strict=True)
    ]


def _batch(leaves, axes, *, apply, transpose, n_residuals):
    """Map over the leading axis of all x, so that the transpose maps to gradients of each."""
    mapped = (leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None)
    size = next(mapped)
    residual_axes = list(axes[:n_residuals])
    x = [
        batching.bdim_at_front(leaf, axis, size)
        for leaf, axis in zip(leaves[n_residuals:], axes[n_residuals:], strict=True)
    ]
    y = _linear_map.bind(
        *leaves[:n_residuals],
        *x,
        apply=jax.vmap(apply, in_axes=(residual_axes, 0)),
        transpose=jax.vmap(transpose, in_axes=(residual_axes, 0)),
        n_residuals=n_residuals,
    )
    return y, [0] * len(y)


_linear_map.def_impl(_evaluate)
_linear_map.def_abstract_eval(_abstract)
ad.primitive_jvps[_linear_map] = _jvp
ad.primitive_transposes[_linear_map] = _transpose
batching.primitive_batchers[_linear_map] = _batch
mlir.register_lowering(_linear_map, mlir.lower_fun(_evaluate, multiple_results=True))
