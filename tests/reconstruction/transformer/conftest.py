"""Reference outputs, weights under their original names, and the NumPy oracle."""

import importlib.util
import os
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.weights.lhm_import import arrange_released

ROOT = pathlib.Path(__file__).parents[3]
PARITY = pathlib.Path(os.environ.get("JAXAVATAR_PARITY", ROOT / "../shared/data/parity"))


@pytest.fixture(scope="session")
def oracle():
    """The module of reference computations, `tests/helpers/lhm_oracle.py`."""
    path = ROOT / "tests" / "helpers" / "lhm_oracle.py"
    spec = importlib.util.spec_from_file_location("lhm_oracle", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def parity_folder():
    if not PARITY.is_dir():
        pytest.skip("the reference outputs are not here")
    return PARITY


@pytest.fixture(scope="session")
def reference(parity_folder):
    """Load a fixture: dicts of weights, inputs, float32 outputs and float64 outputs."""

    def load(name):
        path = parity_folder / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"the reference outputs of {name} are not here")
        with np.load(path) as data:
            return [
                {key.removeprefix(kind): data[key] for key in data if key.startswith(kind)}
                for kind in ("w/", "in/", "out/", "out64/")
            ]

    return load


@pytest.fixture(scope="session")
def imported():
    """Arrange weights of original names as a module's variables; each must be used, none lack.

    `names` and `path` are what precedes the names in a whole checkpoint, and the parameters in the
    whole model.
    """

    def arrange(tensors, names, path, module, *inputs, kind="lhm"):
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
        flat: dict[str, Any] = flax.traverse_util.flatten_dict(shapes, sep="/")
        expected = {f"{path}{name}": leaf.shape for name, leaf in flat.items()}
        tensors = {f"{names}{name}": tensor for name, tensor in tensors.items()}
        params, report = arrange_released(tensors, kind, expected)
        assert not report.unknown and not report.missing
        for part in filter(None, path.split("/")):
            params = params[part]
        return {"params": jax.tree.map(jnp.asarray, params)}

    return arrange
