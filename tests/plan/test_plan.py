"""Plans of steps whose work, memory and traffic are known by hand."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.plan import chips
from experiments.plan.chips import Chip, parse_topology
from experiments.plan.compiling import Plan, Seconds, plan_step, predict, scale
from experiments.plan.hlo import Collective, read_collectives
from experiments.plan.work import count_flops
from jaxavatar.errors import InputError
from jaxavatar.teachers.video_dit import VideoDiTConfig, VideoDiTTeacher
from jaxavatar.teachers.video_dit.config import AutoencoderConfig
from jaxavatar.training.sharding import by_rules, make_mesh
from jaxavatar.training.state import TrainState

ROOT = pathlib.Path(__file__).parents[2]

MODULE = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %once = f32[4]{0} all-reduce(%x), channel_id=9, replica_groups={{0,1},{2,3}}, to_apply=%add
}

%condition (arg: (s32[], f32[4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%nowhere (arg: f32[4]) -> f32[4] {
  ROOT %unused = f32[4]{0} all-reduce(%x), replica_groups={}, to_apply=%add
}

ENTRY %main.5_spmd (p: f32[8]) -> f32[8] {
  %both = (f32[16]{0}, bf16[8,2]{1,0:T(8,128)}) all-reduce(%a, %b), replica_groups=[1,8]<=[8], \
to_apply=%add
  %gs = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%g), replica_groups=[2,4]<=[8], \
dimensions={0}
  %gd = f32[16,8]{1,0} all-gather-done(%gs)
  %rs = f32[2]{0} reduce-scatter(%r), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %cp = (u8[64]{0}, u8[64]{0}, u32[], u32[]) collective-permute-start(%c), \
source_target_pairs={{0,1}}
  %alone = f32[4]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add
  %loop = (s32[], f32[4]) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_collectives_of_a_module():
    """Tuples add up, starts count what comes out, loops count as often as they run."""
    found = read_collectives(MODULE, devices=8)
    assert {(one.kind, one.group, one.size, one.count) for one in found} == {
        ("all-reduce", 8, 16 * 4 + 16 * 2, 1),
        ("all-gather", 4, 16 * 8 * 4, 1),
        ("reduce-scatter", 4, 4 * 2 * 4, 1),
        ("collective-permute", 2, 64, 1),
        ("all-reduce", 2, 16, 5),
    }
    assert [one.sent for one in found] == sorted((one.sent for one in found), reverse=True)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 1200), ("all-gather", 600), ("all-to-all", 600), ("collective-permute", 800)],
)
def test_what_a_ring_sends(kind, sent):
    assert Collective(kind, 4, 400, 2).sent == sent


def test_roofline():
    chip = Chip(flops=1e3, memory=100.0, bandwidth=50.0, ring=10.0, source="made up")
    moved = Plan(4, 4, {"code": 7}, 2e3, 1e3, 200.0, [Collective("all-reduce", 4, 20, 1)], 0.0)
    assert predict(moved, chip) == Seconds(2.0, 4.0, 3.0)
    assert predict(moved, chip).step == 7.0
    # 60 bytes of gradients: 2 * 3/4 * 60 / 10 = 9 seconds beside 7.
    assert scale(Seconds(2.0, 4.0, 3.0), 60, chip, 4) == 7 / 16
    assert scale(Seconds(2.0, 4.0, 3.0), 60, chip, 1) == 1


def test_products_by_hand():
    def function(x, w, kernel, picture):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)
        shown = jax.lax.conv(picture, kernel, (1, 1), "SAME")
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x), shown

    shapes = [(5, 6), (6, 6), (4, 3, 3, 3), (2, 3, 8, 8)]
    traced = jax.make_jaxpr(function)(*(jnp.zeros(shape) for shape in shapes))
    product = 2 * 5 * 6 * 6
    assert count_flops(traced.jaxpr) == (7 + 2) * product + 2 * (2 * 4 * 8 * 8) * (3 * 3 * 3)


def test_every_parameter_of_a_teacher_with_an_autoencoder_has_a_rule():
    model = VideoDiTConfig(
        side=16, patch=2, width=8, depth=1, heads=2, autoencoder=AutoencoderConfig(widths=(4, 8))
    )
    params = jax.eval_shape(VideoDiTTeacher(model).init, jax.random.key(0))
    by_rules(params, make_mesh(jax.devices()[:1]))


def toy_step(state, batch):
    """One step down the slope of mean((x w - y)^2), of a name that a rule covers."""

    def loss(params):
        return jnp.mean((batch["x"] @ params["dit"]["clip_in"]["bias"] - batch["y"]) ** 2)

    value, slope = jax.value_and_grad(loss)(state.params)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, slope)
    return TrainState(params, state.opt_state, state.step + 1), value


def check_toy():
    """Eight devices, 4 clips each of 16 numbers to 8: all by hand."""

    def shape(*sides):
        return jax.ShapeDtypeStruct(sides, jnp.float32)

    weights: Any = {"dit": {"clip_in": {"bias": shape(16, 8)}}}
    step_number: Any = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(weights, weights, step_number)
    batch = {"x": shape(32, 16), "y": shape(32, 8)}
    plan, compiled = plan_step(toy_step, make_mesh(), state, batch)
    assert plan.chips == 8 and plan.clips == 32
    assert plan.memory["parameters"] == plan.memory["optimiser"] == 16 * 8 * 4
    assert plan.memory["batch"] == 4 * (16 + 8) * 4
    # Of the rest of the arguments only the number of the step is left.
    assert plan.memory["other"] == 4
    # Forward, and the gradient of w; x needs none.
    assert plan.products == 2 * (2 * 4 * 16 * 8)
    sums = [one for one in plan.collectives if one.kind == "all-reduce"]
    # The gradient, and the loss: 4 bytes, together or apart.
    assert sum(one.size * one.count for one in sums) == 16 * 8 * 4 + 4
    assert all(one.group == 8 for one in sums) and len(sums) == len(plan.collectives)
    rng = np.random.default_rng(0)
    values = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((16, 8), (32, 16), (32, 8))]
    w, x, y = (np.asarray(value, np.float64) for value in values)
    held: Any = {"dit": {"clip_in": {"bias": values[0]}}}
    before = TrainState(held, jax.tree.map(jnp.zeros_like, held), jnp.zeros((), jnp.int32))
    before, given = jax.device_put(
        (before, {"x": values[1], "y": values[2]}), compiled.input_shardings[0]
    )
    after, value = compiled(before, given)
    np.testing.assert_allclose(value, np.mean((x @ w - y) ** 2), rtol=1e-5)
    expected = w - 0.1 * 2 * x.T @ (x @ w - y) / y.size
    np.testing.assert_allclose(after.params["dit"]["clip_in"]["bias"], expected, atol=1e-5)
    print("same")


def test_plan_of_a_toy_step(same_on_devices):
    same_on_devices(8, __file__)


@pytest.mark.parametrize("text", ["v9:4x4", "v5e", "v5e:4x4x4", "v5e:3x3", "cpu:2x2", "v5p:4x4"])
def test_unknown_topology(text):
    with pytest.raises(
        InputError, match=r"is no topology.* such as |is no topology; write "
    ) as said:
        parse_topology(text)
    assert str(said.value).count("\n") == 0 and text in str(said.value)


def test_known_topologies():
    assert parse_topology("v5p:4x4x8") == ("v5p", (4, 4, 8))
    assert parse_topology("cpu:8") == ("cpu", (8,))
    assert [np.prod(sides) for sides in chips.squares("v5e")] == [1, 4, 16, 64, 256]


def test_the_command_says_it_in_a_sentence():
    command = [sys.executable, "-m", "experiments.plan", "small", "--topology", "v9:2x2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("'v9:2x2' is no topology; write") and done.stderr.count("\n") == 1


if __name__ == "__main__":
    check_toy()
