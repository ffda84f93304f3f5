"""Compile the C++ kernels once per machine and load them.

The sources ship with the package and are compiled at first use, with the system's C++ compiler
(`CXX`, else c++, g++ or clang++) against the headers of the installed jaxlib, in some
fifteen seconds, for AVX-512, AVX2 and neither; the best of them that the machine has is taken when
it runs. The library is kept in the cache folder (`JAXAVATAR_CACHE`, else
`$XDG_CACHE_HOME/jaxavatar`, else `~/.cache/jaxavatar`) under a name that changes with the sources,
the compiler, its flags and jaxlib.
"""

import concurrent.futures
import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile

import jax
import jaxlib.version

from pallas_splat import config

_SOURCES = pathlib.Path(__file__).parent / "src"
# -ffp-contract lets the compiler fuse multiply and add; -fno-math-errno lets it inline roots.
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-w")
_CONSTANTS = (
    "ALPHA_MIN",
    "ALPHA_MAX",
    "TRANSMITTANCE_MIN",
    "FRUSTUM_MARGIN",
    "COMPENSATION_MIN",
)
_DEFINITIONS = tuple(f"-DSPLAT_{name}={getattr(config, name)!r}" for name in _CONSTANTS)


class UnavailableError(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why and what to do."""


@functools.cache
def load() -> ctypes.CDLL:
    """Return the library of kernels; compile it first where that has not been done.

    Safe against other processes that do the same at the same time: each compiles in a folder of
    its own, and the finished library is renamed into place.

    Raises:
        UnavailableError: no compiler, a failed compilation, or a cache folder that is read-only.
    """
    compiler = _compiler()
    library = cache_folder() / f"pallas_splat-{_fingerprint(compiler)}.so"
    if not library.exists():
        _compile(compiler, library)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise UnavailableError(f"cannot load {library} ({error}); delete it") from error


def cache_folder() -> pathlib.Path:
    """Return the folder for compiled libraries (it need not exist yet)."""
    if own := os.environ.get("JAXAVATAR_CACHE"):
        return pathlib.Path(own).expanduser() / "native"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "jaxavatar" / "native"


def _compiler() -> tuple[str, ...]:
    """Return the command of the C++ compiler."""
    if chosen := os.environ.get("CXX"):
        command = tuple(shlex.split(chosen))
        if shutil.which(command[0]):
            return command
        raise UnavailableError(f"the compiler CXX={chosen!r} does not exist; unset or correct it")
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return (path,)
    raise UnavailableError("no C++ compiler was found; install g++ or clang++, or set CXX")


def _units() -> dict[str, tuple[str, ...]]:
    """Map each object file to its source and its own flags."""
    baseline = {f"{name}.o": (f"{name}.cc",) for name in ("bands", "projection")}
    operations = ("compositing", "composite_op", "projection_op")
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return baseline | {f"{name}.o": (f"{name}.cc",) for name in operations}
    avx2 = {f"{name}_avx2.o": (f"{name}.cc", "-mavx2", "-mfma") for name in ("bands", "projection")}
    avx512 = {"bands_avx512.o": ("bands.cc", "-mavx512f", "-mavx512dq", "-mfma")}
    flag = "-DSPLAT_WITH_AVX"
    return baseline | avx2 | avx512 | {f"{name}.o": (f"{name}.cc", flag) for name in operations}


def _fingerprint(compiler: tuple[str, ...]) -> str:
    """Hash everything that the library depends on."""
    version = _run((*compiler, "--version"))
    parts = [version, jaxlib.version.__version__, repr((compiler, _FLAGS, _DEFINITIONS, _units()))]
    parts += [path.read_text() for path in sorted(_SOURCES.iterdir())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: tuple[str, ...], library: pathlib.Path) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=library.parent) as folder:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                unit = functools.partial(_compile_unit, compiler, pathlib.Path(folder))
                objects = list(pool.map(unit, _units().items()))
            linked = pathlib.Path(folder, library.name)
            _run((*compiler, "-shared", "-pthread", *objects, "-o", str(linked)))
            linked.replace(library)
    except OSError as error:
        raise UnavailableError(
            f"cannot write {library.parent} ({error.strerror}); set JAXAVATAR_CACHE to a folder"
            " that can be written"
        ) from error


def _compile_unit(
    compiler: tuple[str, ...], folder: pathlib.Path, unit: tuple[str, tuple[str, ...]]
) -> str:
    """Compile one source and return the path of its object file."""
    name, (source, *flags) = unit
    target = str(folder / name)
    include = f"-I{jax.ffi.include_dir()}"
    options = (*_FLAGS, *_DEFINITIONS, *flags, include)
    _run((*compiler, *options, "-c", str(_SOURCES / source), "-o", target))
    return target


def _run(command: tuple[str, ...]) -> str:
    """Run a compiler's command and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise UnavailableError(
            f"{command[0]} cannot compile the kernels ({lines[0].strip()}); set CXX to a C++17"
            " compiler"
        )
    return done.stdout
