"""Fixtures that several packages' tests share."""

import importlib.util
import pathlib

import pytest


@pytest.fixture(scope="session")
def toys():
    """The module of toy avatars, `tests/helpers/toys.py`."""
    path = pathlib.Path(__file__).parent / "helpers" / "toys.py"
    spec = importlib.util.spec_from_file_location("toys", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
