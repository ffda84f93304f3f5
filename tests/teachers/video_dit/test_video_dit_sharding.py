"""A training step of the video teacher over eight simulated devices gives what one device gives."""

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, optax
from jaxavatar.data.talking_heads import Talk
from jaxavatar.teachers.protocol import Told
from jaxavatar.teachers.video_dit import VideoDiTConfig, VideoDiTTeacher
from jaxavatar.training.sharding import by_clip, compile_step, make_mesh, replicated
from jaxavatar.training.video_dit import FlowConfig, initial_state, make_flow_step

assert len(jax.devices()) == 8
config = VideoDiTConfig(
    side=8, frames=2, patch=4, width=16, depth=1, heads=2, audio_width=5, reach=1, spread=0.3
)
rng = np.random.default_rng(0)
draw = lambda *shape: np.float32(rng.uniform(size=(8, *shape)))
talk = Talk(draw(2, 8, 8, 3), Told(audio=draw(4, 5), reference=draw(8, 8, 3)), draw(8, 8), draw(2))
# Plain gradient steps: Adam would turn rounding of tiny gradients into full steps.
optimiser, mesh = optax.sgd(0.1), make_mesh()
made = make_flow_step(VideoDiTTeacher(config), FlowConfig(without_audio=0.5), optimiser)
before = jax.device_get(initial_state(config, optimiser, jax.random.key(0)))
# Off the zeros of the last layer, behind which nothing would have a gradient.
noisy = lambda leaf: leaf + np.float32(0.1 * rng.normal(size=leaf.shape))
before = before.replace(params=jax.tree.map(noisy, before.params))

copies, clips = jax.device_put(before, replicated(mesh)), jax.device_put(talk, by_clip(mesh))
single = compile_step(made).lower(before, talk).compile()
shared = compile_step(made, mesh).lower(copies, clips).compile()
work = [program.cost_analysis()["flops"] for program in (shared, single)]
assert work[0] < 0.25 * work[1], work  # the compiler did split it
state, metrics = single(jax.device_put(before), talk)
state2, metrics2 = shared(copies, clips)
assert set(metrics) == {"loss", "mouth", "gradient"}
for name in metrics:
    np.testing.assert_allclose(metrics2[name], metrics[name], rtol=1e-4, err_msg=name)
assert int(state.step) == int(state2.step) == 1
for start, one, many in zip(*map(jax.tree.leaves, (before.params, state.params, state2.params))):
    assert len(many.sharding.device_set) == 8 and many.sharding.is_fully_replicated
    np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-5)
    assert abs(one - start).max() > 1e-4, one.shape
print("same")
"""


def test_eight_devices_equal_one(same_on_devices, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    same_on_devices(8, program)
