"""A model spread over eight devices by the table of shardings computes the same."""

PROGRAM = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from jaxavatar.teachers.wan.config import CONFIGS
from jaxavatar.teachers.wan.teacher import WanCondition, WanTeacher
from jaxavatar.training.sharding import MeshConfig, by_clip, by_rules, make_mesh, place

assert len(jax.devices()) == 8
tiny = CONFIGS["tiny"]
config = dataclasses.replace(tiny, transformer=dataclasses.replace(tiny.transformer, layers=4))
teacher = WanTeacher(config)
random = np.random.default_rng(0)
params = jax.tree.map(
    lambda leaf: jnp.asarray(0.2 * random.normal(size=leaf.shape), jnp.float32),
    jax.eval_shape(teacher.init, jax.random.key(0)),
)
keys = jax.random.split(jax.random.key(1), 4)
noisy = jax.random.normal(keys[0], (4, 2, 4, 4, 16))
condition = WanCondition(
    jax.random.normal(keys[1], (4, 4, 4, 16)),
    jax.random.normal(keys[2], (4, 12, 16)),
    jax.random.normal(keys[3], (4, 5, 20)),
)
tau = jnp.linspace(0.2, 0.9, 4)
single = jax.jit(teacher.predict)(params, noisy, tau, condition)

mesh = make_mesh(config=MeshConfig(fsdp=4, tensor=2))
layout, clips = by_rules(params, mesh), by_clip(mesh)
spread = place(params, layout)
up = spread["transformer"]["block0"]["feed_forward"]["up"]["kernel"]
assert up.addressable_shards[0].data.shape == (24 // 4, 32 // 2)
given = place((noisy, tau, condition), clips)
inputs = (layout, clips, clips, clips)
predict = jax.jit(teacher.predict, in_shardings=inputs, out_shardings=clips)
many = predict(spread, *given)
assert len(many.sharding.device_set) == 8
np.testing.assert_allclose(many, single, rtol=1e-4, atol=1e-5)
print("same")
"""


def test_eight_devices_equal_one(same_on_devices, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    same_on_devices(8, program)
