"""Chunks against the whole clip, for one camera and for one per frame."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Config

from jaxavatar import animate, views
from jaxavatar import stream as module
from jaxavatar.deformer import Driver, DriverConfig, initial_state, whole
from jaxavatar.stream import stream
from jaxavatar.structs import Frames

CONFIG = DriverConfig(width=16, heads=2, head_width=8, face_code=4, octaves=3)
FRAMES = 11
SIZE = 32
BACKGROUND = jnp.array([0.2, 0.4, 0.6])


@pytest.fixture(scope="module")
def scene(toys):
    """An avatar, its speech, and a driver whose random parameters move it."""
    avatar, drive, driver = toys.avatar(), toys.drive(frames=FRAMES), Driver(CONFIG)
    params = jax.jit(driver.init)(
        jax.random.key(0), avatar, whole(drive, CONFIG.halo), initial_state(CONFIG)
    )
    params = jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params
    )
    return driver, params, avatar, drive


@pytest.fixture(scope="module")
def clips(scene):
    """Front view and orbit, each rendered as a whole."""
    avatar = scene[2]
    whole_clip = jax.jit(animate.animate, static_argnums=0)
    front = jax.tree.map(lambda leaf: jnp.stack([leaf] * FRAMES), views.photo_camera(avatar, SIZE))
    orbit = views.orbit(avatar, SIZE, FRAMES)
    return {
        "front": whole_clip(*scene, front, BACKGROUND),
        "orbit": whole_clip(*scene, orbit, BACKGROUND),
    }


def streamed(scene, camera, **options: Any) -> Frames:
    """Return the chunks of four frames joined together."""
    driver, params, avatar, drive = scene
    chunks = list(stream(driver, params, avatar, drive, camera, BACKGROUND, 4, **options))
    lengths = [len(chunk.images) for chunk in chunks]
    total = drive.audio.shape[0]
    assert lengths[:-1] == [4] * (total // 4) and sum(lengths) == total
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)


def compilations() -> tuple[int, int]:
    jitted: tuple[Any, Any] = module._deform_chunk, module._render_chunk
    deform, render = (function._cache_size() for function in jitted)
    return deform, render


def assert_same(actual: Frames, expected: Frames) -> None:
    np.testing.assert_allclose(actual.images, expected.images, atol=1e-4)
    np.testing.assert_allclose(actual.alpha, expected.alpha, atol=1e-4)


def test_chunks_give_the_whole_clip_and_compile_once(scene, clips, toys):
    driver, params, avatar, _ = scene
    camera = views.photo_camera(avatar, SIZE)
    # Only the backend "xla" has a list that can overflow: it starts too small and has to grow.
    options = {"backend": "xla", "config": Config(capacity=1)}
    before = compilations()
    video = streamed(scene, camera, **options)
    after = compilations()
    assert_same(video, clips["front"])
    assert video.alpha.max() > 0.5
    assert np.abs(video.images[1:] - video.images[:-1]).max() > 0.02  # the driver moves the avatar
    assert after[0] - before[0] == 1
    assert after[1] - before[1] == 2
    longer = toys.drive(frames=9, segments=3, start=700)
    streamed((driver, params, avatar, longer), camera, **options)
    assert compilations()[0] == after[0]


def test_one_camera_per_frame(scene, clips):
    avatar = scene[2]
    video = streamed(scene, views.orbit(avatar, SIZE, FRAMES))
    assert_same(video, clips["orbit"])
    # The orbit starts in front and leaves it with the second frame.
    aside = np.abs(video.images - clips["front"].images).max((1, 2, 3))
    assert aside[0] < 1e-4
    assert (aside[1:] > 0.01).all() and aside[-1] > 0.1
    # One camera for all frames is no other program.
    compiled = compilations()
    streamed(scene, views.photo_camera(avatar, SIZE))
    assert compilations() == compiled


@pytest.mark.parametrize("count", [1, FRAMES - 1, FRAMES + 1])
def test_number_of_cameras(scene, count):
    cameras = views.orbit(scene[2], SIZE, count)
    with pytest.raises(ValueError, match=f"{count} cameras for {FRAMES} frames"):
        streamed(scene, cameras)
