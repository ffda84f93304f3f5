"""The train step learns, a resumed run is bitwise the uninterrupted one, the loop reports."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import PIL.Image
import pytest

from jaxavatar.deformer import Driver, DriverConfig
from jaxavatar.errors import InputError
from jaxavatar.losses import LossConfig
from jaxavatar.training import (
    Checkpoints,
    DivergedError,
    LoopConfig,
    OptimiserConfig,
    StepConfig,
    TrainState,
    compile_step,
    create_state,
    make_optimiser,
    make_train_step,
    train,
)
from jaxavatar.training.step import exact_terms

CONFIG = DriverConfig(width=16, heads=2, head_width=8, face_code=4, octaves=3)


@pytest.fixture(scope="module")
def setup(toys):
    driver = Driver(CONFIG)
    optimiser = make_optimiser(OptimiserConfig(learning_rate=3e-3, warmup=2, steps=200))
    batch = toys.batch()
    clip = jax.tree.map(lambda leaf: leaf[0], batch)

    start = create_state(driver, optimiser, jax.random.key(0), clip.avatar, clip.drive)

    def fresh():
        """Return a copy, for the step consumes it, committed to a device like a restored state."""
        return jax.device_put(start, jax.devices()[0], may_alias=False)

    step = compile_step(make_train_step(StepConfig(), driver, optimiser))
    return batch, fresh, step


def test_training_reduces_the_loss(setup):
    batch, fresh, step = setup
    state, first = step(fresh(), batch)
    for _ in range(60):
        state, last = step(state, batch)
    assert int(state.step) == 61
    assert set(first) == {
        *("keypoint", "shift", "turn", "image", "arap", "position", "stretch", "appearance"),
        *("loss", "psnr", "gradient"),
    }
    assert float(last["keypoint"]) < 0.7 * float(first["keypoint"])
    assert float(last["loss"]) < float(first["loss"])
    assert all(np.isfinite(value) for value in last.values())


def test_loss_is_the_weighted_sum(setup):
    batch, fresh, step = setup
    start = fresh()
    _, metrics = step(start, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start))  # its memory is used again
    weights = dataclasses.asdict(LossConfig())
    expected = sum(weights[name] * float(metrics[name]) for name in metrics if name in weights)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def test_exact_terms_measure_millimetres_and_radians(setup):
    batch, _, _ = setup
    clip = jax.tree.map(lambda leaf: leaf[0], batch)
    frames, points = clip.keypoint_weights.shape
    rng = np.random.default_rng(0)
    rotations = jnp.asarray(rng.normal(0, 0.3, clip.motion.rotations.shape), jnp.float32)
    expression = jnp.asarray(rng.random(clip.motion.expression.shape), jnp.float32)
    motion = dataclasses.replace(clip.motion, rotations=rotations, expression=expression)
    clip = dataclasses.replace(clip, motion=motion)
    units = np.asarray(clip.avatar.face_units, np.float64)
    index = np.asarray(clip.keypoint_index)
    target = np.zeros((frames, points, 3))
    for k, i in enumerate(index):
        if i < clip.avatar.n_face:
            target[:, k] = np.asarray(expression, np.float64) @ units[i]
    exact = jaxlie.SE3.from_rotation(jaxlie.SO3.exp(rotations))
    measured = jax.jit(exact_terms)
    terms = measured(jnp.asarray(target, jnp.float32), exact.wxyz_xyz, clip)
    assert float(terms["shift"]) < 1e-4 and float(terms["turn"]) < 1e-3

    off = jnp.asarray(
        np.add(target, [0.002, 0, 0]), jnp.float32
    )  # 2 mm, and 0.1 rad about any axis
    turned = exact @ jaxlie.SE3.from_rotation(jaxlie.SO3.exp(jnp.array([0.0, 0.1, 0.0])))
    terms = measured(off, turned.wxyz_xyz, clip)
    assert float(terms["shift"]) == pytest.approx(np.hypot(2, 0.3) - 0.3, rel=1e-3)
    assert float(terms["turn"]) == pytest.approx(np.hypot(0.1, 0.01) - 0.01, rel=1e-3)


def assert_same(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_interrupted_run_resumes_bitwise(setup, tmp_path):
    batch, fresh, step = setup

    def batch_of(number):
        return dataclasses.replace(batch, keypoints=batch.keypoints + number)

    config = LoopConfig(steps=6, report_every=1, save_every=2, keep=2)
    whole = train(config, step, fresh(), batch_of, tmp_path / "whole")

    def interrupted(number):
        if number == 5:
            raise KeyboardInterrupt
        return batch_of(number)

    with pytest.raises(KeyboardInterrupt):
        train(config, step, fresh(), interrupted, tmp_path / "parts")
    resumed = train(config, step, fresh(), batch_of, tmp_path / "parts")
    assert_same(whole, resumed)
    assert step._cache_size() == 1  # neither another batch nor a restored state compiles it anew
    reports = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "parts")
    ]
    assert reports[0] == reports[1]
    assert [report["step"] for report in reports[0]] == [1, 2, 3, 4, 5, 6]
    assert PIL.Image.open(tmp_path / "whole" / "curve.png").size == (640, 360)
    kept = sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert kept == ["4", "6"]


def nothing(number) -> Any:
    return None


def small_state(step=0):
    return TrainState({"w": jnp.arange(3.0) / 7}, (jnp.zeros(2),), jnp.int32(step))


def test_checkpoints_are_exact_and_refuse_what_does_not_fit(tmp_path):
    state = small_state(4)
    with Checkpoints(tmp_path / "states") as checkpoints:
        with pytest.raises(InputError, match="holds no training state"):
            checkpoints.restore(state)
        checkpoints.save(state)
        assert checkpoints.latest() == 4
        assert_same(checkpoints.restore(small_state()), state)
        with pytest.raises(InputError, match="another configuration"):
            checkpoints.restore(dataclasses.replace(state, params={"other": jnp.zeros((2, 2))}))
        with pytest.raises(InputError, match="another configuration"):
            checkpoints.restore(dataclasses.replace(state, params={"w": jnp.zeros(4)}))


def test_a_nan_stops_the_loop_before_it_is_saved(tmp_path):
    def step(state, batch):
        loss = jnp.where(state.step >= 3, jnp.nan, 1.0)
        return dataclasses.replace(state, step=state.step + 1), {"loss": loss}

    config = LoopConfig(steps=10, report_every=5, save_every=2)
    with pytest.raises(DivergedError, match="loss became infinite or NaN by step 4"):
        train(config, step, small_state(), nothing, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() == 2


def test_the_preview_is_drawn_when_training_ends(tmp_path):
    def step(state, batch):
        return dataclasses.replace(state, step=state.step + 1), {"loss": jnp.float32(1.0)}

    train(
        LoopConfig(steps=2),
        step,
        small_state(),
        nothing,
        tmp_path,
        preview=lambda state: np.full((4, 6, 3), 0.5),
    )
    picture = PIL.Image.open(tmp_path / "preview.png")
    assert picture.size == (6, 4)
    assert picture.getpixel((0, 0)) == (128, 128, 128)
