"""What every backend promises, checked against backend "reference" in float64.

One function gives all outputs, their pullback and their pushforward: colours or spherical
harmonics, features, all depths, normals, screen offsets, and three kinds of cameras.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import available, workloads

CASES = ["avatar", "clustered", "adversarial", "lens"]


@pytest.mark.parametrize("case", CASES)
def test_values_and_both_modes_of_derivatives(backend, case, contract):
    check_against_reference(backend, case, contract)


def test_native_leaves_orthographic_cameras_to_jax(contract):
    """The other backends have no projection of their own; what the lens shows holds for them."""
    if not available("native"):
        pytest.skip("backend native does not run on this machine")
    check_against_reference("native", "orthographic", contract)


def check_against_reference(backend, case, contract):
    got, want = contract.evaluated(case, backend), contract.reference(case)
    for name in contract.OUTPUTS:
        # A normal that is the sum of opposite ones is known less well than what it is made of.
        tolerance = 1e-4 if name == "normals" else 1e-5
        contract.assert_close({name: got["values"][name]}, {name: want["values"][name]}, tolerance)
    contract.assert_close(got["gradients"], want["gradients"], 1e-4)
    contract.assert_close(got["tangents"], want["tangents"], 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_reverse_mode_is_the_transpose_of_forward_mode(backend, case, contract):
    """<weights, J v> = <J^T weights, v>, up to the rounding of the terms of the sums."""
    _, weights, tangents = contract.arguments(case)
    results = contract.evaluated(case, backend)
    pushed, size = contract.inner(weights, results["tangents"])
    pulled, other_size = contract.inner(results["gradients"], tangents)
    assert abs(pushed - pulled) <= 1e-5 * max(size, other_size)
    assert abs(pushed) > 1e-3 * size


def test_reference_in_float64_is_its_own_transpose(contract):
    _, weights, tangents = contract.arguments("lens")
    results = contract.reference("lens")
    pushed, size = contract.inner(weights, results["tangents"])
    pulled, _ = contract.inner(results["gradients"], tangents)
    assert abs(pushed - pulled) <= 1e-12 * size


@pytest.mark.parametrize("case", ["clustered", "adversarial"])
def test_bitwise_repeatable(backend, case, contract):
    with contract.running(backend):
        scene = workloads.cast(contract.arguments(case), jnp.float32)
        again = contract.evaluate(*scene, backend=backend, config=contract.make_config(case))
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(again), contract.evaluated(case, backend)
    )


def test_order_of_gaussians_does_not_matter(backend, contract):
    inputs = contract.make_inputs("clustered")
    shuffle = np.random.default_rng(0).permutation(contract.N)
    per_gaussian = {name: inputs[name] for name in ("gaussians", "features", "screen_offsets")}
    shuffled = inputs | jax.tree.map(lambda a: a[shuffle], per_gaussian)
    first, second = (contract.draw(scene, backend) for scene in (inputs, shuffled))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_vmap_over_cameras_and_scenes(backend, contract):
    """Values and the gradient of every view equal those of single calls."""
    scene = workloads.cast(contract.make_inputs("clustered"), jnp.float32)
    gaussians, camera = scene["gaussians"], scene["camera"]
    views = jnp.stack([camera.viewmat, camera.viewmat.at[0, 3].add(0.3)])
    colors = jnp.stack([gaussians.colors, gaussians.colors[::-1]])

    def loss(viewmat, colors, means):
        moved = scene | {
            "gaussians": dataclasses.replace(gaussians, colors=colors, means=means),
            "camera": dataclasses.replace(camera, viewmat=viewmat),
        }
        values = contract.outputs(moved, backend, contract.make_config("clustered"))
        return sum(jnp.sum(jnp.sin(3 * values[name])) for name in ("image", "depth", "features"))

    differentiate = jax.value_and_grad(loss, argnums=(0, 1, 2))
    with contract.running(backend):
        both = jax.jit(jax.vmap(differentiate, in_axes=(0, 0, None)))
        mapped = jax.device_get(both(views, colors, gaussians.means))
        single = jax.jit(differentiate)
        for i in range(2):
            expected = jax.device_get(single(views[i], colors[i], gaussians.means))
            actual = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
            contract.assert_close(actual, expected, 2e-5)


def test_features_are_stored_in_a_narrow_type(backend, contract):
    """They are composited in the means' type; their gradient comes back in their own."""
    scene = workloads.cast(contract.make_inputs("clustered"), jnp.float32)
    narrow = scene["features"].astype(jnp.bfloat16)

    def features(stored):
        values = contract.outputs(
            scene | {"features": stored}, backend, contract.make_config("clustered")
        )
        return values["features"]

    with contract.running(backend):
        composited, pullback = jax.vjp(jax.jit(features), narrow)
        (gradient,) = pullback(jnp.ones_like(composited))
        wide, wide_pullback = jax.vjp(jax.jit(features), narrow.astype(jnp.float32))
        (wide_gradient,) = wide_pullback(jnp.ones_like(wide))
    assert composited.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(composited, wide, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gradient.astype(jnp.float32), wide_gradient, rtol=2**-8)


def test_backend_xla_in_float64(contract):
    """Exact to rounding, so what errors it has in float32 are float32's."""
    got = contract.evaluated("clustered", "xla", contract.FLOAT64)
    contract.assert_close(got, contract.reference("clustered"), 1e-10)
