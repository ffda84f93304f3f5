"""The oracle and parameters under our names."""

import dataclasses
import functools
import importlib.util
import math
import pathlib

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.teachers.wan.config import CONFIGS
from jaxavatar.teachers.wan.init import init_autoencoder, init_transformer, shapes_of
from jaxavatar.teachers.wan.names import autoencoder_rules, transformer_rules
from jaxavatar.weights.torch_names import convert

HELPERS = pathlib.Path(__file__).parents[2] / "helpers"


@pytest.fixture(scope="session")
def oracle():
    """The module `tests/helpers/wan_oracle.py`."""
    spec = importlib.util.spec_from_file_location("wan_oracle", HELPERS / "wan_oracle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", params=["recorded", "live"])
def cases(request, oracle):
    """What diffusers computes: recorded, or now."""
    if request.param == "recorded":
        return oracle.load()
    pytest.importorskip("diffusers")
    return oracle.compute()


@pytest.fixture(scope="session")
def configs():
    """Configurations of the oracle's three models."""
    tiny = CONFIGS["tiny"]
    return {
        "transformer": dataclasses.replace(tiny.transformer, audio=None),
        "heard": tiny.transformer,
        "autoencoder": dataclasses.replace(tiny.autoencoder, base=3),
    }


@pytest.fixture(scope="session")
def imported(configs):
    """Arrange the oracle's weights as parameters; each must be used, and none lack."""

    def arrange(model, tensors):
        config = configs[model]
        if model == "autoencoder":
            rules, init = autoencoder_rules(config), init_autoencoder
        else:
            rules, init = transformer_rules(config), init_transformer
        params, report = convert(tensors, rules, (), shapes_of(functools.partial(init, config)))
        assert not report.unknown and not report.missing, report
        return params

    return arrange


@pytest.fixture(scope="session")
def random_params():
    """Make the parameters that `init(key)` would make, far quicker, and with biases."""

    def make(init, dtype=np.float32):
        random = np.random.default_rng(0)
        made = {}
        for path, shape in shapes_of(init).items():
            values = random.normal(size=shape)
            if path.endswith("scale"):
                values = 1 + 0.2 * values
            elif path.endswith("bias"):
                values *= 0.1
            else:
                values /= math.sqrt(math.prod(shape[:-1]))
            made[path] = jnp.asarray(values, dtype)
        return flax.traverse_util.unflatten_dict(made, sep="/")

    return make
