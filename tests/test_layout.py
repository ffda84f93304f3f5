"""Imports run one way, and the packages install safely."""

import ast
import collections
import importlib.metadata
import importlib.util
import itertools
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Each row may import the rows above it; units of one row never import each other.
ROWS = (
    {"errors"},
    {"structs", "files"},
    {"weights"},
    {"body", "perception", "speech", "photo", "avatar_file", "views"},
    {"reconstruction", "deformer", "drive", "motion"},
    {"animate"},
    {"stream", "head_view", "metrics", "teachers", "export", "preview"},
    {"losses"},
    {"data"},
    {"training"},
    {"cli"},
)
ROW = {unit: number for number, row in enumerate(ROWS) for unit in row}


def sources(*folders: str) -> list[pathlib.Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: pathlib.Path) -> set[str]:
    """Return the dotted names that a file imports anywhere, lazily too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def unit_of(path: pathlib.Path) -> str:
    part = path.relative_to(ROOT / "jaxavatar").parts[0]
    return part.removesuffix(".py")


def test_imports_run_one_way():
    wrong = []
    for path in sources("jaxavatar"):
        unit = unit_of(path)
        if unit == "__init__":
            continue
        assert unit in ROW, f"{unit}: give the new package or module a row in this test"
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "jaxavatar" or parts[1] == unit:
                continue
            if ROW[parts[1]] >= ROW[unit]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_direction_is_enforced(tmp_path):
    """The check above sees imports of every form."""
    path = tmp_path / "module.py"
    path.write_text(
        "import jaxavatar.cli\ndef f():\n    from jaxavatar import data\n"
        "    from jaxavatar.training.loop import run\n"
    )
    assert imports(path) == {"jaxavatar.cli", "jaxavatar.data", "jaxavatar.training.loop.run"}


def test_package_init_only_describes():
    """`import jaxavatar` costs nothing: its `__init__` imports no part of it."""
    assert not imports(ROOT / "jaxavatar" / "__init__.py")


def test_splatter_stands_alone():
    for path in sources("kernels/pallas_splat"):
        tops = {name.split(".")[0] for name in imports(path)}
        allowed = {"jax", "jaxlib", "numpy", "jaxtyping", "flax", "chex", "pallas_splat"}
        foreign = tops - allowed - sys.stdlib_module_names
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_library_imports_no_scripts_or_test_tools():
    for path in sources("jaxavatar", "kernels"):
        tops = {name.split(".")[0] for name in imports(path)}
        forbidden = {"experiments", "tests", "kernels", "pytest", "torch", "mediapipe", "skimage"}
        assert not tops & forbidden, f"{path.relative_to(ROOT)} imports {tops & forbidden}"


def declared(*groups: str) -> set[str]:
    """Return the distributions that pyproject.toml names, in the given extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][group] for group in groups]
    lines = itertools.chain(project["dependencies"], *extras)
    return {re.split(r"[<>=\[ ]", line)[0].lower() for line in lines}


@pytest.mark.parametrize(
    ("folders", "groups"),
    [
        (("jaxavatar", "kernels"), ()),
        (("experiments",), ("demo", "plot", "peers")),
        (("tests",), ("demo", "test", "peers")),
    ],
)
def test_every_import_is_declared(folders, groups):
    known = declared(*groups) | {"jaxavatar"}
    providers = importlib.metadata.packages_distributions()
    own = sys.stdlib_module_names | {"jaxavatar", "pallas_splat", "experiments"}
    for path in sources(*folders):
        for top in {name.split(".")[0] for name in imports(path)} - own:
            # Optional peers need not be installed; theirs are distributions of the same name.
            names = {name.lower() for name in providers.get(top, [top])}
            assert names & known, f"{path.relative_to(ROOT)} imports {top}, not in pyproject.toml"


def test_kernels_is_never_a_package():
    """transformers would take an importable `kernels` for the Hugging Face package."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    found = importlib.util.find_spec("kernels")  # at most a namespace, which any package outranks
    assert found is None or found.origin is None or ROOT not in pathlib.Path(found.origin).parents


def test_tests_are_no_packages_and_have_unique_names():
    assert not list((ROOT / "tests").rglob("__init__.py"))
    names = collections.Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert max(names.values()) == 1, names.most_common(3)


def test_no_module_shadows_the_standard_library():
    """A script's folder comes first on `sys.path`."""
    for path in sources("jaxavatar", "kernels", "experiments", "tests"):
        for part in path.relative_to(ROOT).with_suffix("").parts:
            assert part not in sys.stdlib_module_names, path.relative_to(ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return zipfile.ZipFile(path)


def test_wheel_holds_two_packages_only(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jaxavatar", "pallas_splat"}


def test_wheel_holds_every_tracked_file_of_the_packages(wheel):
    done = subprocess.run(
        ["git", "ls-files", "jaxavatar", "kernels/pallas_splat"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    tracked = {
        name.removeprefix("kernels/")
        for name in done.stdout.splitlines()
        if (ROOT / name).exists() and "/.git" not in name
    }
    assert tracked and tracked <= set(wheel.namelist())


def test_wheel_carries_licence_credits_and_command(wheel):
    names = {pathlib.PurePath(name).name: name for name in wheel.namelist()}
    assert "Apache License" in wheel.read(names["LICENSE"]).decode()
    assert "MakeHuman" in wheel.read(names["NOTICE"]).decode()
    assert "jaxavatar = jaxavatar.cli:main" in wheel.read(names["entry_points.txt"]).decode()
