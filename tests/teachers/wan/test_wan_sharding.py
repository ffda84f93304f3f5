"""The table of shardings is complete, and a model spread over eight devices computes the same."""

import jax
import pytest
from jax.sharding import PartitionSpec

from jaxavatar.teachers.wan.config import CONFIGS
from jaxavatar.teachers.wan.sharding import RULES, parameter_specs
from jaxavatar.teachers.wan.teacher import WanTeacher

PROGRAM = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxavatar.teachers.wan.config import CONFIGS
from jaxavatar.teachers.wan.sharding import make_mesh, parameter_shardings
from jaxavatar.teachers.wan.teacher import WanCondition, WanTeacher

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

mesh = make_mesh(fsdp=4, tensor=2)
shardings = parameter_shardings(params, mesh)
spread = jax.device_put(params, shardings)
up = spread["transformer"]["block0"]["feed_forward"]["up"]["kernel"]
assert up.addressable_shards[0].data.shape == (24 // 4, 32 // 2)
batch = NamedSharding(mesh, PartitionSpec("fsdp"))
given = jax.device_put((noisy, tau, condition), batch)
inputs = (shardings, batch, batch, batch)
predict = jax.jit(teacher.predict, in_shardings=inputs, out_shardings=batch)
many = predict(spread, *given)
assert len(many.sharding.device_set) == 8
np.testing.assert_allclose(many, single, rtol=1e-4, atol=1e-5)
print("same")
"""


def test_eight_devices_equal_one(same_on_devices, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    same_on_devices(8, program)


@pytest.fixture(scope="module")
def shapes():
    return jax.eval_shape(WanTeacher(CONFIGS["1.3b"]).init, jax.random.key(0))


def test_what_a_device_holds(shapes):
    """Of 64 devices, 8 x 8, each holds less than a fiftieth of the transformer."""
    parts = {"fsdp": 8, "tensor": 8}

    def share(leaf, spec):
        size = leaf.size
        for length, axis in zip(leaf.shape, tuple(spec), strict=False):
            if axis is not None:
                assert length % parts[axis] == 0
                size //= parts[axis]
        return size

    specs = parameter_specs(shapes)
    held = jax.tree.map(share, shapes, specs)
    whole = sum(leaf.size for leaf in jax.tree.leaves(shapes["transformer"]))
    assert sum(jax.tree.leaves(held["transformer"])) < whole / 50


def test_every_rule_is_used_and_every_parameter_covered(shapes):
    specs = jax.tree.leaves(
        parameter_specs(shapes), is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
    )
    assert len(specs) == len(jax.tree.leaves(shapes))
    assert {spec for _, spec in RULES} == set(specs)


def test_a_parameter_without_a_rule_is_an_error(shapes):
    transformer = shapes["transformer"] | {"gate": {"kernel": shapes["null_text"]}}
    with pytest.raises(ValueError, match="covers the parameter transformer/gate/kernel"):
        parameter_specs(shapes | {"transformer": transformer})
