"""The splatter compiles for TPUs and GPUs without one; in a process of its own, as a plugin stays
once loaded.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

from experiments.benchmarks.compile import CUDA_PLUGINS


def run(*arguments):
    """Run the command for a small scene."""
    command = [sys.executable, "-m", "experiments.benchmarks.compile", *arguments]
    size = ["--gaussians", "200", "--size", "32"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run([*command, *size], capture_output=True, text=True, env=environment)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_compiles_for_a_tpu():
    result = run("--platform", "tpu", "--topology", "v5e:2x2")
    assert result.returncode == 0, result.stderr
    assert "4 x TPU v5 lite" in result.stdout
    for name in ("forward, 1 device:", "forward+backward, 4 devices:"):
        line = next(line for line in result.stdout.splitlines() if line.startswith(name))
        assert "peak" in line and "Mflop" in line


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_says_that_libtpu_is_missing():
    result = run("--platform", "tpu")
    assert result.returncode == 1
    assert result.stderr.startswith("libtpu is not installed") and result.stderr.count("\n") == 1


def test_compiles_or_lowers_for_cuda():
    """Compiled, kernels and all, where JAX's plugin for CUDA is installed."""
    has_plugin = any(importlib.util.find_spec(name) for name in CUDA_PLUGINS)
    # Without a device, `test_pallas_lowering` lowers the kernels.
    result = run("--platform", "cuda", "--backend", "pallas" if has_plugin else "xla")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Mflop" if has_plugin else "lowered only") == 2
