"""Where reference outputs lie, weights under their original names, and the NumPy oracle."""

import importlib.util
import pathlib

import pytest

from experiments import parity, parity_cases

ROOT = pathlib.Path(__file__).parents[3]


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
    if not parity.DATA.is_dir():
        pytest.skip("the reference outputs are not here")
    return parity.DATA


@pytest.fixture(scope="session")
def imported():
    """Arrange weights of original names as a module's variables; each must be used, none lack."""
    return parity_cases.variables
