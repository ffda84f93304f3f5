"""Text to speech through programs of the operating system.

flite (BSD-style licence) says when each speech sound ends, which gives exact lip timing; eSpeak NG
(GPL-3, run as a program) knows many languages but gives no times.
"""

import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
from jaxtyping import Float

from jaxavatar.errors import InputError
from jaxavatar.speech import sound
from jaxavatar.structs import Phone

# flite's other voices, kal and kal16, drop 0.11 s of each utterance's pauses without saying so.
FLITE_VOICES = ("slt", "rms", "awb")
ESPEAK = "espeak:"  # followed by the name of one of its voices

# flite's own symbols that are not plain ARPABET: variants, syllabic consonants, pauses.
_FLITE_SYMBOLS = {
    "axr": "ER",
    "dx": "D",
    "el": "L",
    "em": "M",
    "en": "N",
    "hv": "HH",
    "nx": "N",
    "pau": "SIL",
    "ssil": "SIL",
    "brth": "SIL",
    "h#": "SIL",
}


def speak(
    text: str, voice: str = "slt"
) -> tuple[Float[np.ndarray, " S"], tuple[Phone, ...] | None]:
    """Say a text.

    Args:
        text: what to say; flite speaks English only.
        voice: one of `FLITE_VOICES`, or "espeak:" and a voice of eSpeak NG ("espeak:de").

    Returns:
        16 kHz samples at `sound.SPEECH_LEVEL`, and the speech sounds in time order without gaps
        (None for eSpeak NG).

    Raises:
        InputError: empty text, nothing in it that the voice can say, an unknown voice, or the
            program is not installed.
    """
    if not text.strip():
        raise InputError("the text to speak is empty; give at least one word")
    with tempfile.TemporaryDirectory() as folder:
        script, wav = pathlib.Path(folder, "text"), pathlib.Path(folder, "speech.wav")
        script.write_text(text, "utf-8")
        if voice.startswith(ESPEAK):
            _espeak(script, wav, voice.removeprefix(ESPEAK))
            return _spoken(wav, text), None
        phones = _flite(script, wav, voice)
        if all(phone.symbol == "SIL" for phone in phones):
            raise _nothing_said(text)
        return _spoken(wav, text), phones


def parse_phones(printed: str) -> tuple[Phone, ...]:
    """Read what `flite -psdur` prints: "symbol:end" in seconds, one utterance per line.

    The times of each utterance start at zero; the utterances follow each other without a gap.
    """
    phones: list[Phone] = []
    for line in printed.splitlines():
        start = utterance = phones[-1].end if phones else 0.0
        for item in line.split():
            symbol, _, end = item.rpartition(":")
            arpabet = _FLITE_SYMBOLS.get(symbol, symbol.upper())
            phones.append(Phone(arpabet, start, utterance + float(end)))
            start = phones[-1].end
    return tuple(phones)


def _flite(script: pathlib.Path, wav: pathlib.Path, voice: str) -> tuple[Phone, ...]:
    if voice not in FLITE_VOICES:
        # flite itself would take another voice without a word.
        raise InputError(
            f"unknown voice {voice!r}; choose one of {', '.join(FLITE_VOICES)}, or {ESPEAK}LANGUAGE"
        )
    options = ["-voice", voice, "-psdur", "-f", str(script), "-o", str(wav)]
    return parse_phones(_run("flite", "flite", options))


def _espeak(script: pathlib.Path, wav: pathlib.Path, voice: str) -> None:
    if not voice or voice.startswith("-"):
        raise InputError(f"unknown voice '{ESPEAK}{voice}'; try {ESPEAK}en-us")
    _run("espeak-ng", "espeak-ng", ["-v", voice, "-b", "1", "-f", str(script), "-w", str(wav)])


def _run(program: str, package: str, options: list[str]) -> str:
    found = shutil.which(program)
    if found is None:
        raise InputError(f"{program} is not installed; run `apt-get install {package}`")
    done = subprocess.run([found, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise InputError(
            f"{program} cannot speak the text ({lines[-1] if lines else 'no message'}); check the"
            " voice and the text"
        )
    return done.stdout


def _spoken(wav: pathlib.Path, text: str) -> Float[np.ndarray, " S"]:
    try:
        return sound.load(wav)
    except InputError as error:  # names a file that the user never saw
        raise _nothing_said(text) from error


def _nothing_said(text: str) -> InputError:
    shown = text.strip()[:40]
    return InputError(f"the voice finds nothing to say in {shown!r}; give a text with words")
