"""Our backends, and what they share with other JAX splatters, as the benchmark runs them."""

import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Passes = dict[str, Callable[[], Callable[[], Any]]]


class Ours:
    """A backend of pallas_splat."""

    def __init__(self, backend: str):
        self.backend = backend

    def unavailable(self) -> str | None:
        """Say why it cannot run here, None when it can; may compile the backend."""
        import jax
        from pallas_splat import available, default_backend

        if available(self.backend):
            return None
        with warnings.catch_warnings(record=True) as told:  # says what "native" misses
            warnings.simplefilter("always")
            default_backend()
        reasons = [str(warning.message).splitlines()[0] for warning in told]
        where = f"does not run on JAX's default device, {jax.devices()[0].device_kind}"
        return "; ".join([where, *reasons])

    def environment(self) -> dict[str, Any]:
        """Name versions, device and threads."""
        return jax_environment()

    def load(self, inputs: dict[str, np.ndarray]) -> Passes:
        """Give, for each pass, what prepares it: see `splat_worker.Engine`."""
        import jax
        import jax.numpy as jnp
        from pallas_splat import Camera, Config, Gaussians, estimate_capacity, render

        names = ("means", "quats", "scales", "opacities", "colors")
        gaussians = Gaussians(*(jnp.asarray(inputs[name]) for name in names))
        K = jnp.asarray(inputs["K"])
        width, height = (int(side) for side in inputs["size"])
        viewmats = jnp.asarray(inputs["viewmats"])
        config = Config(
            capacity=max(
                estimate_capacity(gaussians, Camera(view, K, width, height), backend=self.backend)
                for view in viewmats
            )
        )

        def draw(gaussians, viewmats):
            def view(viewmat):
                camera = Camera(viewmat, K, width, height)
                return render(gaussians, camera, backend=self.backend, config=config).image

            return jax.vmap(view)(viewmats) if len(viewmats) > 1 else view(viewmats[0])[None]

        return compiled(draw, (gaussians, viewmats))

    def device_peak_mb(self) -> float | None:
        """Most memory that was taken on an accelerator."""
        return device_peak_mb()


def compiled(draw: Callable, arguments: tuple) -> Passes:
    """Build the passes of a JAX renderer; preparing one compiles it.

    Args:
        draw: from what is differentiated, and the rest, to images [B, H, W, 3].
        arguments: of `draw`.
    """
    import jax
    import jax.numpy as jnp

    def loss(*arguments):
        return jnp.mean(jnp.square(draw(*arguments) - 0.5))

    def prepare(function):
        program = jax.jit(function).lower(*arguments).compile()
        return lambda: jax.block_until_ready(program(*arguments))

    return {
        "forward": lambda: prepare(draw),
        "forward_backward": lambda: prepare(jax.value_and_grad(loss)),
    }


def jax_environment() -> dict[str, Any]:
    """Name JAX's versions and device, and how many cores it may use."""
    import jax

    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "threads": len(os.sched_getaffinity(0)),
    }


def device_peak_mb() -> float | None:
    """Most memory of JAX's allocator on an accelerator so far, in MB; None on a CPU."""
    import jax

    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return None if peak is None else peak / 1e6
