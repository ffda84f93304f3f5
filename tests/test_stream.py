"""Chunks against the whole clip, for one camera and for one per frame."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Config

from jaxavatar import animate, views
from jaxavatar import stream as module
from jaxavatar.deformer import Driver, DriverConfig, initial_state, whole
from jaxavatar.stream import Moved, stream, stream_motion, stream_poses
from jaxavatar.structs import BodyPose, Frames

CONFIG = DriverConfig(width=16, heads=2, head_width=8, face_code=4, octaves=3)
FRAMES = 11
SIZE = 32
BACKGROUND = jnp.array([0.2, 0.4, 0.6])


@pytest.fixture(scope="module")
def scene(toys):
    """An avatar, its speech, and a driver whose random parameters move it."""
    avatar, drive, driver = toys.avatar(), toys.drive(frames=FRAMES), Driver(CONFIG)
    return driver, toys.driver_params(driver, avatar, drive, noise=0.2), avatar, drive


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


def deltas(avatar) -> BodyPose:
    rng = np.random.default_rng(3)
    return BodyPose(
        jnp.float32(0.2 * rng.normal(size=(FRAMES, 55, 3))),
        jnp.float32(0.05 * rng.normal(size=(FRAMES, 3))),
        jnp.float32(rng.uniform(0, 1, (FRAMES, avatar.face_units.shape[1]))),
    )


def test_poses_in_chunks(scene):
    avatar = scene[2]
    given, camera = deltas(avatar), views.orbit(avatar, SIZE, FRAMES)
    expected = animate.render_frames(
        jax.jit(animate.pose_avatar)(avatar, given), camera, BACKGROUND
    )
    jitted: Any = module._pose_chunk
    before = jitted._cache_size()
    chunks = list(stream_poses(avatar, given, camera, BACKGROUND, 4))
    assert [len(chunk.images) for chunk in chunks] == [4, 4, 3]
    video = jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)
    assert_same(video, expected)
    assert np.abs(video.images[1:] - video.images[:-1]).max() > 0.05
    # Clips of other lengths are no other program.
    shorter = jax.tree.map(lambda leaf: leaf[:3], given)
    list(stream_poses(avatar, shorter, views.photo_camera(avatar, SIZE), BACKGROUND, 4))
    assert jitted._cache_size() == before + 1


def test_body_that_follows_a_motion_in_chunks(scene, clips):
    driver, params, avatar, drive = scene
    body = animate.delta_transforms(avatar, deltas(avatar))[:, : animate.BODY_JOINTS]
    camera = views.photo_camera(avatar, SIZE)

    @functools.partial(jax.jit, static_argnums=0)
    def together(driver, params, avatar, drive, body):
        code = animate.encode(driver, params, avatar)
        window = whole(drive, driver.config.halo)
        motion, _ = animate.track(driver, params, code, window, initial_state(driver.config))
        motion = animate.follow(motion, body)
        return animate.deform_frames(driver, params, avatar, code, motion).gaussians

    posed = together(driver, params, avatar, drive, body)
    expected = animate.render_frames(posed, camera, BACKGROUND)
    before = compilations()[0]
    video = streamed(scene, camera, body=body)
    assert_same(video, expected)
    assert np.abs(video.images - clips["front"].images).max() > 0.1
    assert compilations()[0] == before + 1


def test_motion_in_chunks(scene):
    driver, params, avatar, drive = scene

    @functools.partial(jax.jit, static_argnums=0)
    def together(driver, params, avatar, drive):
        code = animate.encode(driver, params, avatar)
        window = whole(drive, driver.config.halo)
        motion, _ = animate.track(driver, params, code, window, initial_state(driver.config))
        index = avatar.landmarks
        return motion, animate.deform_points(driver, params, avatar, code, motion, index)

    motion, (points, shifts) = together(driver, params, avatar, drive)
    chunks = list(stream_motion(driver, params, avatar, drive, 4))
    assert [len(moved.transforms) for moved in chunks] == [4, 4, 3]
    moved = Moved(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))
    np.testing.assert_allclose(moved.transforms, motion.transforms, atol=1e-5)
    np.testing.assert_allclose(moved.points, points, atol=1e-5)
    np.testing.assert_allclose(moved.shifts, shifts, atol=1e-5)
    face = jnp.arange(5)
    some = next(stream_motion(driver, params, avatar, drive, 4, index=face))
    assert some.points.shape == (4, 5, 3)
