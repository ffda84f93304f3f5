"""The rule for both modes, on a function whose derivatives JAX knows itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from pallas_splat.linear import two_way


def forward(power, arguments, constants):
    """Outputs of x, y, and residuals; written with a loop that reverse mode cannot enter."""
    x, y = arguments["x"], arguments["y"]
    body = lambda carry: (carry[0] + 1, carry[1] * x)  # noqa: E731
    raised = jax.lax.while_loop(
        lambda c: c[0] < power, body, (jnp.zeros_like(constants), x * 0 + 1)
    )
    return (raised[1] * y, jnp.sin(x)), (x, y)


def tangent(power, residuals, tangents):
    x, y = residuals
    dx, dy = tangents["x"], tangents["y"]
    return power * x ** (power - 1) * y * dx + x**power * dy, jnp.cos(x) * dx


def cotangent(power, residuals, cotangents):
    x, y = residuals
    product, sine = cotangents
    return {
        "x": power * x ** (power - 1) * y * product + jnp.cos(x) * sine,
        "y": x**power * product,
    }


ours = functools.partial(two_way(forward, tangent, cotangent), 3)


def call(x, y):
    return jnp.stack(ours({"x": x, "y": y}, jnp.int32(0)))


def plain(x, y):
    return jnp.stack([x**3 * y, jnp.sin(x)])


X, Y = jnp.array([0.3, -1.2, 2.0]), jnp.array([1.5, 0.2, -0.7])


def each(f):
    return lambda x, y: jax.vmap(f)(x, y)


def loss(f):
    return lambda x, y: jnp.sum(jnp.cos(each(f)(x, y)))


TRANSFORMS = {
    "value": each,
    "jvp": lambda f: lambda x, y: jax.jvp(each(f), (x, y), (y, x)),
    "jvp of one": lambda f: lambda x, y: jax.jvp(lambda x: each(f)(x, y), (x,), (y,)),
    "grad": lambda f: jax.grad(loss(f), argnums=(0, 1)),
    "grad of one": lambda f: jax.grad(loss(f), argnums=1),
    "vmap of grad": lambda f: each(jax.grad(lambda x, y: jnp.sum(f(x, y)), argnums=(0, 1))),
    "mapped over y only": lambda f: (
        lambda x, y: jax.grad(
            lambda x, y: jnp.sum(jnp.cos(jax.vmap(f, (None, 0))(x[0], y))), argnums=(0, 1)
        )(x, y)
    ),
    "mapped over y only, outside of jit": lambda f: (
        lambda x, y: jax.grad(
            lambda x, y: jnp.sum(jnp.cos(jax.vmap(jax.jit(f), (None, 0))(x[0], y))), argnums=(0, 1)
        )(x, y)
    ),
    "jvp, mapped over x only, outside of jit": lambda f: (
        lambda x, y: jax.jvp(lambda x, y: jax.vmap(jax.jit(f), (0, None))(x, y[0]), (x, y), (y, x))
    ),
    "jacfwd": lambda f: lambda x, y: jax.jacfwd(f, argnums=(0, 1))(x[0], y[0]),
    "jacrev": lambda f: lambda x, y: jax.jacrev(f, argnums=(0, 1))(x[0], y[0]),
    "forward over reverse": lambda f: lambda x, y: jax.jvp(jax.grad(loss(f)), (x, y), (y, x)),
    "checkpointed": lambda f: jax.grad(jax.checkpoint(loss(f))),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_agrees_with_jax(name, jit):
    transform = TRANSFORMS[name]
    actual, expected = transform(call), transform(plain)
    if jit:
        actual = jax.jit(actual)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-6, atol=1e-6),
        actual(X, Y),
        expected(X, Y),
    )


def test_linearised_under_scan():
    def repeated(f):
        return lambda x, y: jax.lax.scan(lambda c, y: (f(c, y)[1], f(c, y)[0]), x[0], y)[1].sum()

    for actual, expected in zip(
        jax.grad(repeated(call), argnums=(0, 1))(X, Y),
        jax.grad(repeated(plain), argnums=(0, 1))(X, Y),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_shard_map_sums_the_gradients_of_what_shards_share():
    mesh = Mesh(np.array(jax.devices()[:1]), ("shards",))

    def sharded(f):
        def local(x, y):
            return jax.lax.psum(jnp.sum(jax.vmap(f, (None, 0))(x[0], y)), "shards")

        return jax.shard_map(local, mesh=mesh, in_specs=(P(), P("shards")), out_specs=P())

    for mode in (lambda f: jax.grad(f, argnums=(0, 1)), lambda f: lambda *a: jax.jvp(f, a, a)):
        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-6),
            jax.jit(mode(sharded(call)))(X, Y),
            jax.jit(mode(sharded(plain)))(X, Y),
        )
