"""`jaxavatar distill`: a video teacher improves how one avatar speaks."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import pathlib
import typing

from jaxavatar.cli import common
from jaxavatar.errors import InputError
from jaxavatar.files import replacing

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxavatar.drive import Listener
    from jaxavatar.training.personal import Examination, Spoken, Tutor

_SIDE, _STRETCH = 64, 8  # of frames for teachers that leave it open
_HELD_OUT = 0.2  # of every recording of speech
_SENTENCES, _VOICES = range(24), ("slt", "awb")
_HELD_OUT_SENTENCES, _HELD_OUT_VOICES = range(1_000_000, 1_000_006), ("rms",)
# By name, whether something may follow it.
_TEACHERS = {
    "video_dit": (False, True),
    "procedural": (False,),
    "recorded": (False,),
    "remote": (True,),
}
_STILL = 0.6  # share of its motion below which the mouth is said to have become still
_KERNEL = 0.3  # distance of sounds at which a recording counts for another, see AnalyticTeacher


def add_parser(commands: common.Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "distill",
        help="let a video teacher improve how an avatar speaks",
        description="Let a video teacher improve how an avatar speaks. Writes NAME.avatar with its"
        " own motion network, before_after.png and report.json (measured on speech that was not"
        " trained on) into the folder. A run that was interrupted goes on when started again.",
    )
    parser.add_argument("avatar", type=pathlib.Path, metavar="AVATAR")
    parser.add_argument(
        "--teacher",
        default="video_dit",
        metavar="NAME",
        help="video_dit (packaged), video_dit:FILE, procedural, recorded (needs --clips), or"
        " remote:ADDRESS (default: %(default)s)",
    )
    parser.add_argument(
        "--clips",
        type=pathlib.Path,
        metavar="DIR",
        help="recordings of this person with sound, the face as large and in the same place as"
        " before_after.png shows it, for --teacher recorded",
    )
    parser.add_argument(
        "--speech",
        type=pathlib.Path,
        nargs="+",
        metavar="FILE",
        help="what to speak while learning; the last fifth of each is kept to measure on (default:"
        " sentences of synthetic voices)",
    )
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--steps", type=common.positive, default=200, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of randomness (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Train, measure, and write what came out."""
    target = common.check_writable(arguments.out / f"{arguments.avatar.stem}.avatar")
    if target.resolve() == arguments.avatar.resolve():
        raise InputError(f"{target} would overwrite the avatar itself; choose another --out")
    if (arguments.teacher == "recorded") != (arguments.clips is not None):
        raise InputError("--teacher recorded and --clips DIR go together; give both or neither")
    if arguments.teacher == "procedural" and arguments.speech is not None:
        raise InputError(
            "--teacher procedural needs to know every sound's time, which recordings lack; leave"
            " --speech out"
        )
    kind, _, rest = arguments.teacher.partition(":")
    if kind not in _TEACHERS or bool(rest) not in _TEACHERS[kind]:
        raise InputError(
            f"there is no teacher {arguments.teacher!r}; name video_dit, video_dit:FILE,"
            " procedural, recorded or remote:ADDRESS"
        )
    from jaxavatar.avatar_file import load_avatar, load_driver, save_avatar
    from jaxavatar.deformer import Driver, load_params, save_params
    from jaxavatar.deformer.weights_file import PACKAGED

    avatar, info = load_avatar(arguments.avatar)
    own = load_driver(arguments.avatar)
    params, driver_config = load_params(PACKAGED if own is None else io.BytesIO(own))
    settings = _check_settings(arguments)
    common.keep_compiled_code()
    from jaxavatar.drive import load_listener
    from jaxavatar.training.learned import retouched, untouched
    from jaxavatar.training.loop import DivergedError
    from jaxavatar.training.personal import PersonalConfig, examine, improve, make_student

    listener = load_listener()
    config = PersonalConfig(steps=arguments.steps, seed=arguments.seed)
    with _tutor(arguments, listener) as tutor:
        common.say(["listening to the speech ..."])
        speeches, held_out = _speeches(arguments, listener, config.stretches * tutor.stretch)
        student = make_student(Driver(driver_config), params, avatar)
        common.say(["asking the teacher about the avatar as it is ..."])
        before = examine(config, student, untouched(params, avatar), tutor, held_out)
        with replacing(arguments.out / "training" / "settings.json") as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n")
        try:
            state = improve(config, student, tutor, speeches, arguments.out / "training")
        except DivergedError as error:
            raise InputError(str(error)) from error
        common.say(["asking the teacher about the avatar as it has become ..."])
        after = examine(config, student, state.params, tutor, held_out)
    network = arguments.out / "training" / "driver.npz"
    save_params(network, state.params.driver, driver_config)
    improved = retouched(avatar, state.params.avatar)
    report = _report(arguments, before, after)
    save_avatar(target, improved, {**info, "distilled": report}, network.read_bytes())
    _draw(arguments.out / "before_after.png", before, after)
    with replacing(arguments.out / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    common.say(
        f"{name}: {report['before'][name]:.4g} before, {value:.4g} after"
        for name, value in report["after"].items()
    )
    common.say(_warning(before, after))
    print(target)


def _check_settings(arguments: argparse.Namespace) -> dict[str, typing.Any]:
    """Insist that a training that the folder holds is this one; return what makes it this one.

    Raises:
        InputError: it was started with other arguments.
    """
    settings = {
        "avatar": hashlib.sha256(arguments.avatar.read_bytes()).hexdigest(),
        "--teacher": arguments.teacher,
        "--clips": None if arguments.clips is None else str(arguments.clips.resolve()),
        "--speech": [str(path.resolve()) for path in arguments.speech or ()],
        "--steps": arguments.steps,
        "--seed": arguments.seed,
    }
    path = arguments.out / "training" / "settings.json"
    known = json.loads(path.read_text()) if path.exists() else settings
    other = sorted(name for name in settings if known.get(name) != settings[name])
    if other:
        raise InputError(
            f"{arguments.out} holds a training with another {' and '.join(other)}; go on with the"
            " same or choose another --out"
        )
    return settings


@contextlib.contextmanager
def _tutor(arguments: argparse.Namespace, listener: Listener) -> Iterator[Tutor]:
    """Load the teacher, or connect to it.

    Raises:
        InputError: it cannot be read, or does not answer.
    """
    from jaxavatar.training.personal import Tutor

    kind, _, rest = arguments.teacher.partition(":")
    if kind == "video_dit":
        from jaxavatar.teachers.video_dit import VideoDiTTeacher, load_params
        from jaxavatar.teachers.video_dit.weights_file import PACKAGED

        params, config = load_params(rest or PACKAGED)
        yield Tutor(VideoDiTTeacher(config), params, config.side, config.frames)
    elif kind == "procedural":
        yield Tutor(None, (), _SIDE, _STRETCH)
    elif kind == "recorded":
        from jaxavatar.speech import speech_features
        from jaxavatar.teachers.analytic import AnalyticTeacher
        from jaxavatar.teachers.recorded import known_clips, load_recordings

        recordings = load_recordings(arguments.clips, _SIDE)
        known = known_clips(
            recordings, lambda samples: speech_features(listener.encoder, samples), _STRETCH, 2
        )
        yield Tutor(AnalyticTeacher(kernel=_KERNEL), known, _SIDE, _STRETCH)
    else:
        from jaxavatar.teachers.remote.client import connect

        with connect(rest) as teacher:
            spec = teacher.spec
            side = -(-_SIDE // spec.size_multiple) * spec.size_multiple
            more = max(0, _STRETCH - spec.first_frames)
            stretch = spec.first_frames + -(-more // spec.frame_step) * spec.frame_step
            yield Tutor(teacher, (), side, stretch)


def _speeches(
    arguments: argparse.Namespace, listener: Listener, count: int
) -> tuple[list[Spoken], list[Spoken]]:
    """Hear what to learn from and what to measure on, each at least `count` frames long.

    Raises:
        InputError: a recording cannot be read, or is too short.
    """
    from jaxavatar.drive import make_drive
    from jaxavatar.speech import sound
    from jaxavatar.structs import FPS
    from jaxavatar.training.personal import Spoken

    if arguments.speech is None:
        return _sentences(arguments.out / "training", listener, count)
    learned, kept = [], []
    for path in arguments.speech:
        speech = Spoken(make_drive(sound.load(path), listener=listener))
        held_out = max(count, round(_HELD_OUT * len(speech)))
        if len(speech) < held_out + count:
            raise InputError(
                f"{path} lasts {len(speech) / FPS:.1f} s; give --speech of at least"
                f" {2 * count / FPS:.1f} s"
            )
        learned.append(speech.part(0, len(speech) - held_out))
        kept.append(speech.part(len(speech) - held_out, len(speech)))
    return learned, kept


def _sentences(
    folder: pathlib.Path, listener: Listener, count: int
) -> tuple[list[Spoken], list[Spoken]]:
    """Let synthetic voices speak; how the mouth truly moves to them is known."""
    from jaxavatar.data.clips import make_clips
    from jaxavatar.training.batches import clip_drive
    from jaxavatar.training.personal import Spoken

    kinds = {
        "speech.npz": (_SENTENCES, _VOICES),
        "speech_held_out.npz": (_HELD_OUT_SENTENCES, _HELD_OUT_VOICES),
    }
    made = []
    for name, (seeds, voices) in kinds.items():
        clips = make_clips(folder / name, seeds, voices, listener)
        spoken = [Spoken(clip_drive(clip), clip.motion) for clip in clips]
        made.append([speech for speech in spoken if len(speech) >= count])
    return made[0], made[1]


def _report(
    arguments: argparse.Namespace, before: Examination, after: Examination
) -> dict[str, typing.Any]:
    import numpy as np

    return {
        "teacher": arguments.teacher,
        "steps": arguments.steps,
        "seed": arguments.seed,
        "before": before.numbers,
        "after": after.numbers,
        "moved_mm": float(1000 * np.abs(after.openings - before.openings).mean()),
    }


def _warning(before: Examination, after: Examination) -> list[str]:
    """Say so where the teacher has made the mouth still: it knows few faces, and this one not."""
    moved, moves = before.numbers["opening_mm"], after.numbers["opening_mm"]
    if moves >= _STILL * moved:
        return []
    return [
        f"the mouth moves {moves:.2g} mm instead of {moved:.2g} mm: this teacher takes faces like"
        " this one for stiller than they are; compare before_after.png, and keep the avatar as it"
        " was or ask another teacher (--teacher)"
    ]


def _draw(path: pathlib.Path, before: Examination, after: Examination) -> None:
    """Show the frames of a held-out clip as the teacher sees them, before above after."""
    from jaxavatar.export.picture import save_panels

    count = min(8, len(before.frames))
    panels = {f"before {t}": before.frames[t] for t in range(count)}
    panels |= {f"after {t}": after.frames[t] for t in range(count)}
    save_panels(path, panels, height=160, columns=count)
