"""A step on several devices, or in two processes, gives what it gives on one device.

Other meshes by hand, with XLA_FLAGS=--xla_force_host_platform_device_count=8:

    python tests/training/test_sharding.py driver data=4,fsdp=2 data=2,frame=4
"""

import importlib.util
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxavatar.data.talking_heads import Talk
from jaxavatar.deformer import Driver, DriverConfig
from jaxavatar.errors import InputError
from jaxavatar.teachers.protocol import Told
from jaxavatar.teachers.video_dit import VideoDiTConfig, VideoDiTTeacher
from jaxavatar.training.sharding import (
    MeshConfig,
    by_clip,
    by_rules,
    compile_step,
    make_mesh,
    over_frames,
    parse_mesh,
    place,
    replicated,
    sum_over_clips,
)
from jaxavatar.training.state import create_state
from jaxavatar.training.step import StepConfig, make_train_step
from jaxavatar.training.video_dit import FlowConfig, initial_state, make_flow_step

# Plain steps with a memory: Adam would turn rounding of tiny gradients into full steps.
OPTIMISER = optax.sgd(0.1, momentum=0.9)


def random_like(shapes, deviation):
    """Draw every array of a state by NumPy, which compiles nothing; counts are zero."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return (deviation * rng.normal(size=leaf.shape) * (leaf.ndim > 0)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


def assert_same(many, one, name):
    """Compare the parts of an array that this process has."""
    for shard in many.addressable_shards:
        expected = np.asarray(one)[shard.index]
        np.testing.assert_allclose(shard.data, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def check(make_step, before, batch, meshes, share):
    """Compare a step on every mesh with itself; each device does at most `share` of the work.

    Of several processes the first compares; then it must hold a part of everything.
    """
    found = []
    for mesh in meshes:
        layout = by_rules(before, mesh)
        state, clips = place(before, layout), place(batch, by_clip(mesh))
        step = compile_step(make_step(mesh), mesh, layout).lower(state, clips).compile()
        found.append((layout, step(state, clips), step.cost_analysis()["flops"]))
    if jax.process_index() > 0:
        return
    step = compile_step(make_step(None)).lower(before, batch).compile()
    state, metrics = jax.device_get(step(place(before, None), batch))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params, state.params)
    assert min(jax.tree.leaves(moved)) > 0 and max(jax.tree.leaves(moved)) > 1e-3
    for layout, (many, metrics2), work in found:
        assert work < share * step.cost_analysis()["flops"], work
        assert set(metrics2) == set(metrics)
        for name, value in metrics.items():
            assert_same(metrics2[name], value, name)
        named = jax.tree_util.tree_leaves_with_path(many)
        leaves = zip(named, jax.tree.leaves(state), jax.tree.leaves(layout), strict=True)
        for (path, leaf), one, sharding in leaves:
            name = jax.tree_util.keystr(path)
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), name
            assert_same(leaf, one, name)


def check_driver(meshes):
    path = pathlib.Path(__file__).parents[1] / "helpers" / "toys.py"
    spec = importlib.util.spec_from_file_location("toys", path)
    assert spec is not None and spec.loader is not None
    toys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toys)

    driver = Driver(DriverConfig(width=8, heads=1, head_width=4, face_code=2, octaves=2))
    clips, rendered = (
        max(np.prod([mesh.shape[axis] for axis in axes]) for mesh in meshes)
        for axes in (("data", "fsdp"), ("frame",))
    )
    batch = toys.batch(clips=clips, frames=3, rendered=rendered, size=8, count=60)
    clip = jax.tree.map(lambda leaf: leaf[0], batch)
    shapes = jax.eval_shape(
        lambda key: create_state(driver, OPTIMISER, key, clip.avatar, clip.drive), jax.random.key(0)
    )

    def make_step(mesh):
        return make_train_step(StepConfig(), driver, OPTIMISER, mesh=mesh)

    check(make_step, random_like(shapes, 0.2), batch, meshes, 0.6)


def check_flow(meshes):
    config = VideoDiTConfig(
        side=8, frames=2, patch=4, width=16, depth=1, heads=2, audio_width=6, reach=1, spread=0.3
    )
    rng = np.random.default_rng(0)

    def draw(*shape) -> Any:
        return rng.uniform(size=(8, *shape)).astype(np.float32)

    told = Told(audio=draw(4, 6), reference=draw(8, 8, 3))
    talk = Talk(draw(2, 8, 8, 3), told, draw(8, 8), draw(2))
    shapes = jax.eval_shape(lambda key: initial_state(config, OPTIMISER, key), jax.random.key(0))

    def make_step(_):
        return make_flow_step(VideoDiTTeacher(config), FlowConfig(without_audio=0.5), OPTIMISER)

    check(make_step, random_like(shapes, 0.2), talk, meshes, 0.3)


def check_sum_over_clips(mesh):
    """Also of what is computed frame by frame, and its gradient."""
    rng = np.random.default_rng(1)
    clips = rng.normal(size=(8, 4, 3)).astype(np.float32)
    scale = np.array([0.5, 1.0, 2.0], np.float32)

    def squares(mesh):
        def clip(clip, number, scale):
            def frames(scale, frames):
                return jax.lax.map(lambda frame: jnp.sin(scale * frame), frames)

            return number * jnp.sum(over_frames(frames, mesh, scale, clip) ** 2)

        def total(clips, scale):
            def value_and_slope(one, number):
                return jax.value_and_grad(clip, argnums=2)(one, number, scale)

            return sum_over_clips(value_and_slope, mesh, clips, jnp.arange(8.0))

        return total

    waves = scale * clips
    slope = (np.arange(8)[:, None, None] * np.sin(2 * waves) * clips).sum((0, 1))
    value = (np.arange(8)[:, None, None] * np.sin(waves) ** 2).sum()
    for found in (
        jax.jit(squares(None))(clips, scale),
        jax.jit(squares(mesh), in_shardings=(by_clip(mesh), replicated(mesh)))(clips, scale),
    ):
        np.testing.assert_allclose(found[0], value, rtol=1e-5)
        np.testing.assert_allclose(found[1], slope, rtol=1e-4, atol=1e-4)


def main(what, *arguments):
    if what == "processes":
        address, number = arguments
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, 2, int(number))
        assert len(jax.devices()) == 8 and len(jax.local_devices()) == 4
        check_flow([make_mesh(config=MeshConfig(fsdp=2, tensor=2))])
    else:
        assert len(jax.devices()) == 8
        meshes = [make_mesh(config=parse_mesh(text)) for text in arguments]
        {"driver": check_driver, "flow": check_flow}[what](meshes)
        check_sum_over_clips(meshes[0])
    print("same")


def test_eight_devices_equal_one(same_on_devices):
    """Clips, parameters and frames are split, each in two."""
    same_on_devices(8, __file__, "driver", "data=2,fsdp=2,frame=2")


def test_two_processes_equal_one(same_on_processes):
    """Clips over the processes, parameters and heads within them."""
    same_on_processes(2, 4, __file__, "processes")


def test_meshes():
    assert parse_mesh("") == MeshConfig()
    assert parse_mesh("data=4,fsdp=2") == MeshConfig(data=4, fsdp=2)
    for text in ("date=4", "data", "data=0", "fsdp=-1", "data=4 fsdp=2"):
        with pytest.raises(InputError, match="is no part of a mesh; write axes among data, fsdp"):
            parse_mesh(text)
    one = jax.devices()[:1]
    assert make_mesh(one).shape == {"data": 1, "fsdp": 1, "frame": 1, "tensor": 1}
    with pytest.raises(InputError, match="data=1, fsdp=2, frame=1, tensor=3 needs 6 devices, and"):
        make_mesh(one, MeshConfig(fsdp=2, tensor=3))


def test_frames_must_be_shared_equally():
    mesh: Any = jax.sharding.AbstractMesh((1, 1, 2, 1), ("data", "fsdp", "frame", "tensor"))
    with pytest.raises(ValueError, match="3 frames cannot be shared equally by 2 devices"):
        over_frames(lambda _, frames: frames, mesh, (), jnp.zeros(3))


if __name__ == "__main__":
    main(*sys.argv[1:])
