"""The check of gradients accepts right ones and notices wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.distill.gradients import GradientsConfig, relative_error

CONFIG = GradientsConfig()


def test_a_right_gradient_and_one_that_is_off_by_a_percent():
    @jax.custom_vjp
    def wrong(x):
        return jnp.sum(jnp.sin(x["a"]) * x["b"])

    def forward(x):
        return wrong(x), x

    def backward(x, slope):
        return (
            {"a": 1.01 * slope * jnp.cos(x["a"]) * x["b"], "b": 1.01 * slope * jnp.sin(x["a"])},
        )

    wrong.defvjp(forward, backward)
    rng = np.random.default_rng(0)
    point = {"a": rng.standard_normal(4), "b": rng.standard_normal(4)}
    with jax.enable_x64(True):
        right = relative_error(CONFIG, lambda x: jnp.sum(jnp.sin(x["a"]) * x["b"]), point)
        off = relative_error(CONFIG, wrong, point)
    assert right < 1e-9
    np.testing.assert_allclose(off, 0.01 / 1.01, rtol=0.02)
