"""How tests are compiled, and what several packages' tests share."""

import functools
import importlib.util
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

import jax
import pytest

# Nearly all of the tests' time is compilation, which these make three to four times shorter.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def pytest_addoption(parser):
    parser.addoption(
        "--optimised",
        action="store_true",
        help="let XLA optimise what is tested as it optimises programs; several times slower",
    )


def pytest_configure(config):
    """Choose XLA's options before JAX starts; workers and subprocesses inherit them."""
    if hasattr(config, "workerinput"):
        return
    _share_compiled(config)
    if config.getoption("optimised"):
        return
    flags = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
    # Only on CPUs; and XLA ends a process that gives it an option it does not know.
    probe = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.stdout.strip() == "cpu":
        os.environ["XLA_FLAGS"] = flags


def _share_compiled(config):
    """Let the processes of this run share what they compile, a quarter of what some files take."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="compiled-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)  # for other processes
        jax.config.update(name, value)  # this one has imported JAX


def pytest_report_header():
    return f"XLA_FLAGS: {os.environ.get('XLA_FLAGS', '')}"


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled():
    """Let go of what a file compiled: a whole run would take 9 GB and use up memory maps."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def optimised_jit():
    """`jax.jit` as programs have it, for what optimisations might break."""
    options = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
    quick = QUICK in os.environ.get("XLA_FLAGS", "")
    return functools.partial(jax.jit, compiler_options=options if quick else None)


@pytest.fixture(scope="session")
def toys():
    """The module of toy avatars, `tests/helpers/toys.py`."""
    path = pathlib.Path(__file__).parent / "helpers" / "toys.py"
    spec = importlib.util.spec_from_file_location("toys", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def same_on_devices():
    """Run a Python file where the CPU counts as several devices; it must print "same"."""

    def run(count, *command):
        _end_same([_start(count, *command)])

    return run


@pytest.fixture(scope="session")
def same_on_processes():
    """Run a Python file in several processes of several devices, as `same_on_devices` does.

    Its last arguments are the address of process 0, for `jax.distributed`, and its own number.
    """

    def run(processes, count, *command):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        _end_same([_start(count, *command, address, str(n)) for n in range(processes)])

    return run


def _start(count, *command):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=pipe, stderr=pipe, text=True
    )


def _end_same(processes):
    try:
        said = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, error) in zip(processes, said, strict=True):
        assert process.returncode == 0, error[-3000:]
        assert "same" in out.split()  # gloo may have said something after it
