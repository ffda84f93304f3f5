"""Backends under test, and the module that the contract's tests share."""

import importlib.util
import pathlib

import pytest
from pallas_splat import available


@pytest.fixture(scope="session")
def contract():
    """The module `contract.py` beside this file."""
    path = pathlib.Path(__file__).with_name("contract.py")
    spec = importlib.util.spec_from_file_location("contract", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["xla", "native", "pallas"])
def backend(request):
    """Every backend but the reference; "pallas" is interpreted where there is no GPU."""
    if request.param == "native" and not available("native"):
        pytest.skip("backend native does not run on this machine")
    return request.param
