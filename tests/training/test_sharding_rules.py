"""The table of shardings is complete, and splits what is large."""

import dataclasses
import math
import re
from typing import Any

import flax.traverse_util
import jax
import pytest
from jax.sharding import AbstractMesh

from jaxavatar.deformer import load_params
from jaxavatar.reconstruction.transformer import CONFIGS as RECONSTRUCTORS
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.teachers.video_dit import VideoDiTConfig, VideoDiTTeacher
from jaxavatar.teachers.wan.config import CONFIGS as WANS
from jaxavatar.teachers.wan.teacher import WanTeacher
from jaxavatar.training.learned import Learned, Rates, Retouch, personal_optimiser
from jaxavatar.training.sharding import by_rules
from jaxavatar.training.sharding_rules import AXES, RULES, rule_of
from jaxavatar.training.state import OptimiserConfig, TrainState, make_optimiser

MESH: Any = AbstractMesh((4, 8, 2, 4), AXES)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, "float32")


def reconstructor(name):
    """Shapes of a reconstructor; of every kind of blocks only a few, which are traced faster."""
    config = RECONSTRUCTORS[name]
    body, hand = (dataclasses.replace(part, depth=1) for part in (config.body, config.hand))
    head = dataclasses.replace(config.head, depth=1, taken=(0,))
    config = dataclasses.replace(config, layers=2, body=body, head=head, hand=hand)
    flat = {path: shape(*sizes) for path, sizes in parameter_shapes(config).items()}
    return {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}


@pytest.fixture(scope="module")
def models():
    key = jax.random.key(0)
    wan = WANS["1.3b"]
    wan = dataclasses.replace(wan, transformer=dataclasses.replace(wan.transformer, layers=4))
    params, _ = load_params()
    return {
        "driver": jax.tree.map(lambda leaf: shape(*leaf.shape), params),
        "hand++": reconstructor("hand++"),
        "tiny": reconstructor("tiny"),
        "video_dit": jax.eval_shape(VideoDiTTeacher(VideoDiTConfig(depth=1)).init, key),
        "wan": jax.eval_shape(WanTeacher(wan).init, key),
        "avatar": {"avatar": {field.name: shape(101) for field in dataclasses.fields(Retouch)}},
        # Of the ablation without tokens of joints.
        "direct": {"motion": {f"direct_{end}": {"kernel": shape(32, 32)} for end in ("in", "out")}},
    }


def flat(tree) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def held(leaf, sharding):
    return math.prod(sharding.shard_shape(leaf.shape))


def test_every_parameter_is_covered_and_every_rule_used(models):
    used = {rule_of(path)[0] for params in models.values() for path in flat(params)}
    assert used == {pattern for pattern, _ in RULES}


def test_what_a_device_holds(models):
    """With 8 x 4 devices along "fsdp" and "tensor", each has little more than its share."""
    for name, fraction in (("hand++", 24), ("wan", 26), ("video_dit", 12)):
        params = models[name]
        if name == "wan":
            params = {"transformer": params["transformer"]}
        parts = jax.tree.map(held, params, by_rules(params, MESH))
        whole = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert sum(jax.tree.leaves(parts)) < whole / fraction, name
    large = [
        path
        for params in models.values()
        for path, leaf in flat(params).items()
        if leaf.size > 10_000 and "fsdp" not in rule_of(path)[1]
    ]
    # The autoencoder of Wan is whole on purpose.
    assert all(re.match("(encoder|decoder)/|null_text", path) for path in large), large


def test_an_optimiser_remembers_as_parameters_lie(models):
    """Nested as deep as a state has them; counts are whole."""
    optimiser = make_optimiser(OptimiserConfig())
    params = models["hand++"]
    state = jax.eval_shape(
        lambda params: TrainState(params, optimiser.init(params), jax.numpy.zeros(())), params
    )
    layout = by_rules(state, MESH)
    memory = layout.opt_state[1][0]
    assert memory.mu == memory.nu == layout.params == by_rules(params, MESH)
    assert layout.step.is_fully_replicated and memory.count.is_fully_replicated

    learned: Any = Learned(models["driver"], Retouch(**models["avatar"]["avatar"]))
    rates = Rates(parts=("motion", "gaussian"), colors=1.0)
    layout = by_rules(jax.eval_shape(personal_optimiser(rates).init, learned), MESH)
    groups = layout[1].inner_states
    remembered = groups["driver"].inner_state[1][0].mu.driver["params"]["motion"]["joints"]
    assert remembered.spec == rule_of("motion/joints")[1] and remembered.spec != ()
    assert groups["colors"].inner_state[1][0].mu.avatar.colors.is_fully_replicated


def test_a_parameter_without_a_rule_is_an_error(models):
    transformer = models["wan"]["transformer"] | {"gate": {"kernel": shape(8, 8)}}
    with pytest.raises(ValueError, match="covers the parameter wan/transformer/gate/kernel; add"):
        by_rules({"wan": models["wan"] | {"transformer": transformer}}, MESH)


def test_a_mesh_that_does_not_divide_is_an_error():
    params = {"motion": {"joints": shape(55, 12)}}
    with pytest.raises(ValueError, match=r"motion/joints of shape \(55, 12\) cannot be split into"):
        by_rules(params, MESH)
    with pytest.raises(ValueError, match=r"motion/joints of shape \(8,\)"):
        by_rules({"motion": {"joints": shape(8)}}, MESH)
