"""Download one file with a progress bar; every failure is an OSError that says why.

Only `store` uses this: nothing else in the project reaches the network.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence

from tqdm import tqdm


def pip_arguments(requirement: str, tags: Sequence[str] = ()) -> list[str]:
    """Return the arguments after `pip` that download one wheel without installing it."""
    return ["download", "--no-deps", "--only-binary=:all:", *tags, requirement]


def wheel(requirement: str, tags: Sequence[str], size: int, folder: pathlib.Path) -> pathlib.Path:
    """Download a wheel with pip, which brings its own index, proxy and certificate settings.

    Args:
        requirement: "name==version".
        tags: extra arguments that name the platform.
        size: expected, bytes, for the progress bar.
        folder: empty or new; receives the wheel and pip's temporary files.

    Returns:
        The wheel's path.

    Raises:
        OSError: pip fails; the message is the last line it printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [*pip_arguments(requirement, tags), "--quiet", "--dest", str(folder)]
    log = folder / "pip.log"
    # pip downloads into its temporary folder and then moves: ours, so that the bar sees it.
    environment = os.environ | {"TMPDIR": str(folder)}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "pip", *arguments], stderr=out, stdout=out, env=environment
        ) as process,
    ):
        try:
            _watch(process, folder, requirement, size)
        finally:
            process.kill()  # on Ctrl-C; harmless once it has ended
    if process.returncode:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        raise OSError(next((line for line in reversed(lines) if line), "pip failed"))
    (found,) = folder.glob("*.whl")
    return found


def _watch(process: subprocess.Popen[bytes], folder: pathlib.Path, label: str, size: int) -> None:
    with tqdm(total=size, unit="B", unit_scale=True, desc=label) as bar:
        while process.poll() is None:
            with contextlib.suppress(OSError):  # pip renames and removes files meanwhile
                sizes = (file.stat().st_size for file in folder.rglob("*") if file.is_file())
                bar.update(min(sum(sizes), size) - bar.n)
            time.sleep(0.1)
        if process.returncode == 0:
            bar.update(size - bar.n)


def url(address: str, target: pathlib.Path, label: str) -> None:
    """Download an address to a file.

    Raises:
        OSError: no connection, or the server refuses.
    """
    with urllib.request.urlopen(address) as answer, target.open("wb") as out:
        total = int(answer.headers.get("Content-Length", 0)) or None
        with tqdm(total=total, unit="B", unit_scale=True, desc=label) as bar:
            while block := answer.read(1 << 20):
                out.write(block)
                bar.update(len(block))


def lfs_sha256(address: str) -> str:
    """Read the SHA-256 that a Git LFS pointer states.

    Raises:
        OSError: no connection, or no such pointer there.
    """
    with urllib.request.urlopen(address) as answer:
        for line in answer.read(1024).decode(errors="replace").splitlines():
            if line.startswith("oid sha256:"):
                return line.removeprefix("oid sha256:").strip()
    raise OSError(f"{address} states no SHA-256")
