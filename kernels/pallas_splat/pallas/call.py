"""Run Pallas kernels: the one place that knows about compilers, interpretation and `shard_map`.

Kernels go through Pallas' Triton lowering (NVIDIA GPUs from Ampere on). jax 0.10 takes it only
when asked with Triton's compiler parameters, jax 0.12 has no other.
"""

import contextlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array

from pallas_splat.linear import vary_together

_is_interpreted = jax.make_user_context(False)


def interpreted() -> contextlib.AbstractContextManager:
    """Run the kernels in Pallas' interpreter for the length of a `with`, on any device.

    Meant for tests: it is slow. What is compiled inside is kept apart from what is compiled
    outside.
    """
    return _is_interpreted(True)


def available() -> bool:
    """Return whether the kernels can run on JAX's default device or are being interpreted."""
    if _is_interpreted.value:
        return True
    if jax.default_backend() != "gpu":
        return False
    generation = jax.devices()[0].compute_capability.split(".")[0]  # "9" of NVIDIA's "9.0"
    return generation.isdigit() and int(generation) >= 8


def call(
    kernel: Callable[..., None],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *arguments: Array,
    grid: tuple[int, ...],
    warps: int,
    aliases: dict[int, int] | None = None,
) -> list[Array]:
    """Run a kernel; under `vmap` its grid gets a dimension.

    Args:
        kernel: takes references to the whole of each argument, then to the outputs.
        outputs: shapes and types of the results.
        arguments: arrays.
        grid: number of programs.
        warps: of 32 threads, per program.
        aliases: which argument, by number, gives which output, by number, its first contents.

    Returns:
        The results; elements that no program wrote hold anything, or what they started from.
    """
    arguments = vary_together(arguments)
    varying = jax.typeof(arguments[0]).manual_axis_type
    shapes = [
        jax.ShapeDtypeStruct(output.shape, output.dtype, manual_axis_type=varying)
        for output in outputs
    ]
    run = pl.pallas_call(
        kernel,
        out_shape=shapes,
        grid=grid,
        input_output_aliases=aliases or {},
        interpret=bool(_is_interpreted.value),
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
    )
    return _constant(run)(*arguments)


def _constant(run: Callable[..., list[Array]]) -> Callable[..., list[Array]]:
    """Let a kernel be differentiated no further: the engine has its derivatives, the first ones."""
    run = jax.custom_jvp(run)

    @run.defjvp
    def refuse(primals, tangents):  # pyright: ignore[reportUnusedFunction]
        raise NotImplementedError(
            "backend 'pallas' has first derivatives only; use backend 'xla' or 'reference'"
        )

    return run


def require_gpu(array: Array) -> Array:
    """Return the array; refuse, when lowering, to do so for anything but a GPU.

    The device is known no sooner: a program for GPUs may be traced on a machine without one.

    Raises:
        NotImplementedError: the program is lowered for another device.
    """
    return array if _is_interpreted.value else _require_gpu.bind(array)


_require_gpu = Primitive("pallas_splat_require_gpu")
_require_gpu.def_impl(jax.jit(_require_gpu.bind))
_require_gpu.def_abstract_eval(lambda array: array)
batching.defvectorized(_require_gpu)


def _refuse(context, array):
    del context, array
    raise NotImplementedError(
        "backend 'pallas' runs on NVIDIA GPUs (compute capability 8.0 or newer) only; "
        "use backend 'xla' here, or pallas_splat.pallas.interpreted() to test it"
    )


mlir.register_lowering(_require_gpu, _refuse)
mlir.register_lowering(_require_gpu, lambda context, array: [array], platform="cuda")


def float32(*shape: int) -> jax.ShapeDtypeStruct:
    """Describe a float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)
