"""splax, whose kernels are NVIDIA Warp's: `splax.render` under `jax.vmap` over cameras.

Written against splax 0.2.3. Not run by its authors: it needs an NVIDIA GPU.

splax takes what a trainer stores, log scales, logits and spherical harmonics; they are computed
before the clock starts, and the gradients are with respect to them. Focal lengths are static.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks.jax_engine import compiled, device_peak_mb, jax_environment


class Splax:
    """Peer "splax"."""

    def unavailable(self) -> str | None:
        """Say why it cannot run here, None when it can."""
        missing = [name for name in ("jax", "splax") if not importlib.util.find_spec(name)]
        if missing:
            return f"{' and '.join(missing)} not installed in this interpreter"
        import jax

        return None if jax.default_backend() == "gpu" else "JAX sees no NVIDIA GPU"

    def environment(self) -> dict[str, Any]:
        """Name versions and device."""
        splax = importlib.import_module("splax")
        return {**jax_environment(), "splax": splax.__version__}

    def load(self, inputs: dict[str, np.ndarray]) -> dict[str, Callable[[], Callable[[], Any]]]:
        """Give, for each pass, what prepares it: see `splat_worker.Engine`."""
        import jax
        import jax.numpy as jnp

        splax = importlib.import_module("splax")
        width, height = (int(side) for side in inputs["size"])
        K = inputs["K"]
        camera = {
            "background": jnp.zeros(3),
            "img_shape": (height, width),
            "f": (float(K[0, 0]), float(K[1, 1])),
            "c": (float(K[0, 2]), float(K[1, 2])),
        }
        log_scales, logits = splax.io.invert_activations(inputs["scales"], inputs["opacities"])
        harmonics = splax.io.rgb_to_sh(inputs["colors"])[:, None]
        leaves = (inputs["means"], log_scales, inputs["quats"], harmonics, logits)

        def draw(leaves, viewmats):
            return jax.vmap(lambda view: splax.render(*leaves, viewmat=view, **camera)[0])(viewmats)

        return compiled(draw, jax.tree.map(jnp.asarray, (leaves, inputs["viewmats"])))

    def device_peak_mb(self) -> float | None:
        """Most memory of JAX's allocator; Warp's pools are not in it."""
        return device_peak_mb()
