"""Both modes of differentiation against finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from pallas_splat import Config, render, workloads

N, SIZE = 20, 12


@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_check_grads(backend):
    """All arguments move at once; thresholds are not crossed by so small a step."""
    gaussians, camera = workloads.clustered(N, SIZE)
    rng = np.random.default_rng(0)
    inputs = {
        "features": rng.normal(size=(N, 2)),
        "background": rng.uniform(size=3),
        "screen_offsets": np.zeros((N, 2)),
    }
    with jax.enable_x64(True):
        arrays = workloads.cast((gaussians, camera, inputs), jnp.float64)

        @jax.jit
        def outputs(gaussians, camera, inputs):
            rendered = render(
                gaussians, camera, **inputs, backend=backend, median_depth=True, normals=True,
                config=Config(capacity=2048),
            )  # fmt: skip
            assert rendered.median_depth is not None
            values = {name: getattr(rendered, name) for name in ("image", "alpha", "features")}
            depths = {"expected": 0.1 * rendered.depth, "median": 0.1 * rendered.median_depth}
            return values | depths | {"normals": rendered.normals}

        assert outputs(*arrays)["median"].max() > 0.1
        check_grads(outputs, arrays, order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6, eps=1e-6)
