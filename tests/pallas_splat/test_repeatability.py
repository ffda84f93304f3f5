"""The same inputs give bitwise the same values and derivatives in another process."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
from pallas_splat import available


def test_two_processes_agree_bitwise(contract, tmp_path):
    """One process for all backends, beside this one."""
    backends = ["xla", "pallas", *(["native"] if available("native") else [])]
    file = tmp_path / "results.npz"
    program = pathlib.Path(contract.__file__)
    subprocess.run([sys.executable, str(program), str(file), *backends], check=True)
    here = {name: contract.evaluated("clustered", name) for name in backends}
    with np.load(file) as saved:
        there = [saved[name] for name in saved.files]
    for ours, theirs in zip(jax.tree.leaves(here), there, strict=True):
        np.testing.assert_array_equal(ours, theirs)
