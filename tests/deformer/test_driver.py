"""The assembled driver: motion starts at rest, chunks agree with the clip, files round-trip."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.body import JOINTS
from jaxavatar.deformer import (
    Driver,
    DriverConfig,
    chunk,
    initial_state,
    load_params,
    save_params,
    whole,
)
from jaxavatar.deformer.motion import twist_bounds
from jaxavatar.deformer.tokens import GaussianFeatures, without_person
from jaxavatar.errors import InputError

TINY = DriverConfig(width=16, heads=2, head_width=8, face_code=4, octaves=3)


@pytest.fixture(scope="module", params=["leaky", "paper", "no motion tokens"])
def driven(request, toys):
    integration = "paper" if request.param == "paper" else "leaky"
    config = dataclasses.replace(
        TINY, integration=integration, motion_tokens=request.param != "no motion tokens"
    )
    driver, avatar, drive = Driver(config), toys.avatar(), toys.drive(frames=23, segments=2)
    state = initial_state(config)
    window = whole(drive, config.halo)
    fresh = jax.jit(driver.init)(jax.random.key(0), avatar, window, state)
    # A trained network's outputs are not near zero.
    params = jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), fresh
    )
    return driver, fresh, params, avatar, drive


def test_a_fresh_network_hardly_moves(driven):
    driver, fresh, _, avatar, drive = driven
    config = driver.config
    motion, offsets, _ = jax.jit(driver.apply)(
        fresh, avatar, whole(drive, config.halo), initial_state(config)
    )
    assert motion.transforms.shape == (23, 55, 7)
    turn = 2 * jnp.arccos(jnp.clip(jnp.abs(motion.transforms[..., 0]), 0, 1))
    assert turn.max() < 0.05
    assert jnp.abs(offsets.position).max() < 5e-3


def test_chunks_agree_with_the_whole_clip(driven):
    driver, _, params, avatar, drive = driven
    halo, state = driver.config.halo, initial_state(driver.config)
    apply = jax.jit(driver.apply)
    motion, offsets, _ = apply(params, avatar, whole(drive, halo), state)
    assert jnp.abs(offsets.position).max() > 1e-3
    for start in range(0, 23, 10):
        part, part_offsets, state = apply(params, avatar, chunk(drive, start, 10, halo), state)
        rows = slice(start, min(start + 10, 23))
        count = rows.stop - rows.start
        np.testing.assert_allclose(part.transforms[:count], motion.transforms[rows], atol=1e-5)
        for actual, expected in zip(
            jax.tree.leaves(part_offsets), jax.tree.leaves(offsets), strict=True
        ):
            np.testing.assert_allclose(actual[:count], expected[rows], atol=1e-5)


def test_joint_motion_depends_on_nearby_speech_only_forwards(driven):
    driver, _, params, avatar, drive = driven
    apply = jax.jit(driver.apply)
    state, halo = initial_state(driver.config), driver.config.halo
    before, _, _ = apply(params, avatar, whole(drive, halo), state)
    louder = dataclasses.replace(drive, audio=drive.audio.at[12].add(3.0 * jnp.arange(10.0)))
    after, _, _ = apply(params, avatar, whole(louder, halo), state)
    changed = jnp.abs(after.transforms - before.transforms).max((1, 2))
    first = 12 - driver.config.reach
    np.testing.assert_allclose(changed[:first], 0.0, atol=1e-6)
    assert changed[first] > 1e-5


def test_every_parameter_gets_a_gradient(driven):
    driver, _, params, avatar, drive = driven
    config = driver.config

    def loss(params):
        motion, offsets, _ = driver.apply(
            params, avatar, whole(drive, config.halo), initial_state(config)
        )
        leaves = [motion.transforms, *jax.tree.leaves(offsets)]
        return sum(jnp.sum(jnp.sin(7 * leaf)) for leaf in leaves)

    gradients = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    for path, leaf in gradients:
        assert jnp.isfinite(leaf).all(), path
        # A constant added to all keys leaves a softmax as it is.
        if not jax.tree_util.keystr(path).endswith("['attention']['key']['bias']"):
            assert jnp.abs(leaf).max() > 0, path


def test_lips_and_template_tokens(toys):
    avatar = toys.avatar()
    module = GaussianFeatures(TINY)
    # Two face Gaussians at one spot that the jaw moves differently: an upper and a lower lip.
    avatar = dataclasses.replace(
        avatar,
        means=avatar.means.at[1].set(avatar.means[0]),
        template_points=avatar.template_points.at[1].set(avatar.template_points[0]),
        weights=avatar.weights.at[1].set(avatar.weights[0]),
        colors=avatar.colors.at[1].set(avatar.colors[0]),
    )
    params = module.init(jax.random.key(0), avatar)
    features: Any = module.apply(params, avatar)
    assert jnp.abs(features[0] - features[1]).max() > 0.1
    other = dataclasses.replace(avatar, means=avatar.means + 0.02, colors=1 - avatar.colors)
    different: Any = module.apply(params, other)
    assert jnp.abs(features - different).max() > 0.1
    np.testing.assert_array_equal(without_person(features), without_person(different))


def test_bounds_name_every_joint():
    bounds = twist_bounds()
    assert bounds.shape == (len(JOINTS), 6)
    assert (bounds > 0).all()
    assert bounds[JOINTS.index("left_knee"), 3] < bounds[JOINTS.index("left_elbow"), 3]


def test_weights_file_round_trips(tmp_path):
    key = jax.random.key(0)
    params = {"params": {"a": {"b": jax.random.normal(key, (5, 3))}, "c": jnp.ones(2) / 3}}
    config = dataclasses.replace(TINY, periods=(7, 9), integration="paper")
    save_params(tmp_path / "exact.npz", params, config, half=False)
    save_params(tmp_path / "half.npz", params, config)
    exact, same_config = load_params(tmp_path / "exact.npz")
    half, _ = load_params(tmp_path / "half.npz")
    assert same_config == config
    for original, same, near in zip(*map(jax.tree.leaves, (params, exact, half)), strict=True):
        np.testing.assert_array_equal(original, same)
        np.testing.assert_allclose(near, original, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("content", [None, b"not a zip file"])
def test_a_bad_weights_file_is_an_input_error(tmp_path, content):
    path = tmp_path / "driver.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"driver\.npz"):
        load_params(path)
