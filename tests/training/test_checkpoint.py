"""Checkpoints are exact, written while training goes on, and known when they are damaged."""

import dataclasses
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.errors import InputError
from jaxavatar.training import Checkpoints, TrainState
from jaxavatar.training.fingerprint import _on_device, fingerprint


def state_of(step):
    """A state whose every number depends on its step."""
    noise = np.random.default_rng(step).normal(size=(64, 32)).astype(np.float32)
    params = {"w": jnp.asarray(noise), "half": jnp.asarray(noise[0], jnp.bfloat16)}
    return TrainState(params, (jnp.zeros(3), jnp.asarray([True, False])), jnp.int32(step))


def assert_same(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_fingerprints_are_sums_of_scrambled_words():
    """On the host and on devices they are what plain integers give."""
    rng = np.random.default_rng(0)
    tree = [
        rng.normal(size=(3, 5, 7)).astype(np.float32),
        rng.normal(size=11).astype(jnp.bfloat16),
        rng.integers(-5, 5, (2, 4)).astype(np.int32),
        np.array([True, False, True]),
        np.float32(2.5),
    ]
    prints, finite = fingerprint(tree)
    for leaf, got in zip(tree, prints, strict=True):
        words = np.atleast_1d(leaf).ravel()
        words = words.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[words.itemsize])
        expected = 0
        for place, word in enumerate(words.tolist()):
            word ^= place * 0x9E3779B1 % 2**32
            word = (word ^ (word >> 16)) * 0x85EBCA6B % 2**32
            word = (word ^ (word >> 13)) * 0xC2B2AE35 % 2**32
            expected += word ^ (word >> 16)
        assert got == expected % 2**32
        assert int(_on_device(leaf)[0]) == got
    assert finite
    for bad in (np.inf, np.nan):
        tree[1][4] = bad
        assert not fingerprint(tree)[1] and not _on_device(tree[1])[1]


def test_a_state_is_written_while_its_memory_is_reused(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(jnp.ones_like, s), donate_argnums=0)
    big = dataclasses.replace(state_of(1), params=jnp.arange(1_000_000, dtype=jnp.float32))
    expected = jax.tree.map(np.array, big)
    like = jax.tree.map(jnp.zeros_like, big)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(big)
        later = advance(advance(big))
        checkpoints.wait()
        assert_same(checkpoints.restore(like), expected)
        assert_same(later, jax.tree.map(np.ones_like, expected))


@pytest.fixture(scope="module")
def two_states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    with Checkpoints(folder) as checkpoints:
        for step in (4, 6):
            checkpoints.save(state_of(step), notes=[step])
    return folder


def largest(folder):
    return max((folder / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


def cut_short(folder):
    with largest(folder).open("r+b") as file:
        file.truncate(file.seek(0, 2) // 2)


def garble(folder):
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def swap(folder):
    """Another state's numbers, complete in themselves."""
    shutil.rmtree(folder / "state")
    shutil.copytree(folder.parent / "4" / "state", folder / "state")


def lose_metadata(folder):
    (folder / "state" / "_METADATA").unlink()


def lose_description(folder):
    shutil.rmtree(folder / "about")


def garble_description(folder):
    path = folder / "about" / "metadata"
    path.write_text(path.read_text().replace("float32", "float16", 1))


@pytest.mark.parametrize(
    "damage", [cut_short, garble, swap, lose_metadata, lose_description, garble_description]
)
def test_of_a_damaged_state_the_one_before_is_used(two_states, tmp_path, capsys, damage):
    folder = tmp_path / "states"
    shutil.copytree(two_states, folder)
    damage(folder / "6")
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(state_of(0))
        assert_same(restored, state_of(4))
        assert checkpoints.notes(4) == [4]
        said = capsys.readouterr().err
        assert "the state of step 6" in said and "goes on from step 4" in said
        assert (folder / "6.damaged").exists()
        checkpoints.save(state_of(6))
        assert_same(checkpoints.restore(state_of(0)), state_of(6))


def test_where_every_state_is_damaged_training_does_not_start_anew(two_states, tmp_path):
    shutil.copytree(two_states, tmp_path, dirs_exist_ok=True)
    for step in "46":
        cut_short(tmp_path / step)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"step 4 .* is damaged or of another version"),
    ):
        checkpoints.restore(state_of(0))


def test_the_best_state_is_kept_beside_the_last_ones(tmp_path):
    losses = {1: 5.0, 2: 3.0, 3: 4.0, 4: 3.5, 5: 6.0, 6: 7.0}
    with Checkpoints(tmp_path, keep=1, best="loss") as checkpoints:
        assert checkpoints.best() is None
        for step in range(1, 5):
            checkpoints.save(state_of(step), {"loss": losses[step]})
        checkpoints.save(state_of(5))
    assert steps_in(tmp_path) == [2, 5]
    with Checkpoints(tmp_path, keep=1, best="loss") as checkpoints:
        checkpoints.save(state_of(6), {"loss": losses[6]})
        assert checkpoints.best() == 2
        assert_same(checkpoints.restore(state_of(0), checkpoints.best()), state_of(2))
    assert steps_in(tmp_path) == [2, 6]
    with Checkpoints(tmp_path, keep=1, best="loss", best_is="highest") as checkpoints:
        assert checkpoints.best() == 6


def test_a_state_that_is_not_finite_is_not_written(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        bad = dataclasses.replace(state_of(1), params={"w": jnp.array([1.0, jnp.nan])})
        assert not checkpoints.save(bad)
        assert checkpoints.latest() is None


@pytest.mark.filterwarnings("ignore:Exception ignored")
def test_a_save_that_fails_says_so(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).normal(size=500_000).astype(np.float32)
    too_big = dataclasses.replace(state_of(2), params=jnp.asarray(noise))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(1))
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            with pytest.raises(InputError, match="could not save the state of training"):
                checkpoints.save(too_big)
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert checkpoints.latest() == 1
        assert_same(checkpoints.restore(state_of(0)), state_of(1))
