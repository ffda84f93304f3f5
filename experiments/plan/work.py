"""Floating-point operations of matrix products and convolutions, counted in a traced function.

The compiler's own count takes every loop as one pass; this one multiplies a scan's body by its
length. Loops of unknown length count once, branches by the largest.
"""

import math
from typing import Any

from jax.extend import core


def count_flops(jaxpr: core.Jaxpr) -> float:
    """Return two operations for every multiplication of the products in a jaxpr."""
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        depth = math.prod(left[axis] for axis in contracted)
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        places = math.prod(equation.outvars[0].aval.shape)
        # Zeros between the elements of a dilated input cost nothing: transposed strides.
        return 2.0 * places * math.prod(kernel) / outputs / math.prod(params["lhs_dilation"])
    if name == "cond":
        return max(count_flops(branch.jaxpr) for branch in params["branches"])
    times = params.get("length", 1) if name == "scan" else 1
    if name == "shard_map":
        times = params["mesh"].size
    return times * sum(count_flops(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    found = []
    for value in params.values():
        jaxpr = getattr(value, "jaxpr", value)
        if hasattr(jaxpr, "eqns"):
            found.append(jaxpr)
    return found
