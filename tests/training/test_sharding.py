"""A step over eight simulated devices gives what one device gives."""

import pathlib

PROGRAM = """
import importlib.util, sys
import jax, numpy as np, optax
spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
from jaxavatar.deformer import Driver, DriverConfig
from jaxavatar.training import *

assert len(jax.devices()) == 8
driver = Driver(DriverConfig(width=8, heads=1, head_width=4, face_code=2, octaves=2))
# Plain gradient steps: Adam would turn rounding of tiny gradients into full steps.
optimiser, config, mesh = optax.sgd(0.1), StepConfig(), make_mesh()
batch = toys.batch(clips=8, frames=3, size=8, count=60)
clip = jax.tree.map(lambda leaf: leaf[0], batch)
before = jax.device_get(create_state(driver, optimiser, jax.random.key(0), clip.avatar, clip.drive))
single = compile_step(make_train_step(config, driver, optimiser))
shared = compile_step(make_train_step(config, driver, optimiser, mesh=mesh), mesh)
state, metrics = single(jax.device_put(before), batch)
copies = jax.device_put(before, replicated(mesh))
state2, metrics2 = shared(copies, jax.device_put(batch, by_clip(mesh)))
for name in metrics:
    np.testing.assert_allclose(metrics2[name], metrics[name], rtol=1e-4, atol=1e-6, err_msg=name)
moved = 0.0
for start, one, many in zip(*map(jax.tree.leaves, (before.params, state.params, state2.params))):
    assert len(many.sharding.device_set) == 8
    np.testing.assert_allclose(many, one, atol=1e-6)
    moved = max(moved, float(abs(one - start).max()))
assert moved > 1e-4, moved
print("same")
"""


def test_eight_devices_equal_one(same_on_devices, tmp_path):
    toys = pathlib.Path(__file__).parents[1] / "helpers" / "toys.py"
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    same_on_devices(8, program, toys)
