"""Talking clips: speech with what a listener model hears in it and how a teacher moves to it."""

import dataclasses
import pathlib
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
import scipy.signal
from jaxtyping import Bool, Float
from tqdm import tqdm

from jaxavatar import drive as driving
from jaxavatar.data.corpus import sentence
from jaxavatar.files import replacing
from jaxavatar.speech import voice
from jaxavatar.structs import SAMPLE_RATE, SAMPLES_PER_FRAME, BodyPose, Phone
from jaxavatar.teachers.motion import procedural_motion

_SILENCE = 0.4  # seconds before and after the sentence
_MOTION = ("rotations", "translation", "expression")
_CLOCK = 200  # frames after which idle motion repeats
MANNER = 0
"""Seed of the one speaker whose manner of gesturing is learned."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One sentence.

    Attributes:
        audio: speech features A_t.
        text: token embeddings Z of the one segment.
        text_mask: which exist.
        motion: of the procedural teacher, relative to any rest pose.
        start: frame number of the first frame.
        phones: timed speech sounds.
        sentence: what is said.
    """

    audio: Float[np.ndarray, "T d_a"]
    text: Float[np.ndarray, "L d_z"]
    text_mask: Bool[np.ndarray, " L"]
    motion: BodyPose
    start: int
    phones: tuple[Phone, ...]
    sentence: str

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.audio)


def make_clip(
    seed: int, voices: tuple[str, ...], words: tuple[str, ...], listener: driving.Listener
) -> Clip:
    """Say the sentence of a seed and let the procedural teacher move to it.

    A third of the clips are spoken as is; the others are played faster or slower by up to 15 %,
    which shifts pitch and resonances like those of another speaker, and have a little noise.

    Args:
        seed: decides sentence, voice and everything else.
        voices: names for `speech.voice.speak`; only those with timed phones.
        words: vocabulary of the random sentences.
        listener: the speech model.
    """
    rng = np.random.default_rng([seed, 1])
    text = sentence(seed, words)
    samples, phones = voice.speak(text, voices[seed % len(voices)])
    assert phones is not None, "only voices with timed phones can teach"
    if rng.random() > 1 / 3:
        samples, phones = _another_speaker(samples, phones, rng)
    samples, phones = _in_silence(samples, phones, rng)
    start = int(rng.integers(_CLOCK))
    heard = driving.make_drive(samples, text, listener)
    motion = procedural_motion(samples, phones, MANNER, start)
    return Clip(
        audio=np.asarray(heard.audio),
        text=np.asarray(heard.text[0]),
        text_mask=np.asarray(heard.text_mask[0]),
        motion=motion,
        start=start,
        phones=phones,
        sentence=text,
    )


def _another_speaker(
    samples: np.ndarray, phones: tuple[Phone, ...], rng: np.random.Generator
) -> tuple[np.ndarray, tuple[Phone, ...]]:
    """Play faster or slower, with noise at 20 to 50 dB below the speech."""
    percent = int(rng.integers(85, 116))
    samples = scipy.signal.resample_poly(samples, 100, percent).astype(np.float32)
    power = float(np.mean(samples**2)) * 10 ** (-rng.uniform(20, 50) / 10)
    samples = samples + rng.normal(0, np.sqrt(power), samples.shape).astype(np.float32)
    pace = 100 / percent
    return samples, tuple(Phone(p.symbol, p.start * pace, p.end * pace) for p in phones)


def _in_silence(
    samples: np.ndarray, phones: tuple[Phone, ...], rng: np.random.Generator
) -> tuple[np.ndarray, tuple[Phone, ...]]:
    """Put silence around a sentence, its start at a random place within a frame."""
    before = round(_SILENCE * SAMPLE_RATE) + int(rng.integers(SAMPLES_PER_FRAME))
    after = round(_SILENCE * SAMPLE_RATE)
    shift, end = before / SAMPLE_RATE, phones[-1].end + before / SAMPLE_RATE
    moved = [Phone(p.symbol, p.start + shift, p.end + shift) for p in phones]
    padded = np.pad(samples, (before, after))
    quiet = (Phone("SIL", 0.0, shift), *moved, Phone("SIL", end, len(padded) / SAMPLE_RATE))
    return padded, quiet


def make_clips(
    path: pathlib.Path,
    seeds: Iterable[int],
    voices: tuple[str, ...],
    listener: driving.Listener,
) -> list[Clip]:
    """Make clips, or read them from `path` where they were made before.

    Args:
        path: an `.npz` file.
        seeds: of `make_clip`.
        voices: of `make_clip`.
        listener: the speech model.
    """
    if not path.exists():
        words = _plain_words(listener)
        made = [make_clip(s, voices, words, listener) for s in tqdm(list(seeds), unit="clip")]
        with replacing(path) as temporary:
            np.savez(temporary, allow_pickle=False, **_columns(made))
    with np.load(path, allow_pickle=False) as stored:
        return _rows(dict(stored))


def _plain_words(listener: driving.Listener) -> tuple[str, ...]:
    """Return the whole lower-case words of the speech model's vocabulary."""
    pieces = listener.vocabulary.pieces.get_vocab()
    words = (piece[1:] for piece in pieces if piece.startswith("\u0120"))
    return tuple(
        sorted(w for w in words if w.isascii() and w.isalpha() and w.islower() and len(w) > 3)
    )


def _columns(clips: list[Clip]) -> dict[str, np.ndarray]:
    """Concatenate clips along time, for one file of plain arrays."""
    phones = [phone for clip in clips for phone in clip.phones]
    return {
        "lengths": np.array([len(c) for c in clips]),
        "audio": np.concatenate([c.audio for c in clips]).astype(np.float16),
        "text": np.stack([c.text for c in clips]).astype(np.float16),
        "text_mask": np.stack([c.text_mask for c in clips]),
        "rotations": np.concatenate([c.motion.rotations for c in clips]),
        "translation": np.concatenate([c.motion.translation for c in clips]),
        "expression": np.concatenate([c.motion.expression for c in clips]),
        "start": np.array([c.start for c in clips]),
        "sentence": np.array([c.sentence for c in clips]),
        "phone_counts": np.array([len(c.phones) for c in clips]),
        "phone_symbols": np.array([p.symbol for p in phones]),
        "phone_times": np.array([(p.start, p.end) for p in phones]),
    }


def _rows(stored: dict[str, np.ndarray]) -> list[Clip]:
    """Undo `_columns`."""
    cuts = np.cumsum(stored["lengths"])[:-1]
    parts = {name: np.split(stored[name], cuts) for name in ("audio", *_MOTION)}
    ends = np.cumsum(stored["phone_counts"])
    clips = []
    for i, end in enumerate(ends):
        which = slice(end - stored["phone_counts"][i], end)
        spans = zip(stored["phone_symbols"][which], stored["phone_times"][which], strict=True)
        clips.append(
            Clip(
                audio=parts["audio"][i].astype(np.float32),
                text=stored["text"][i].astype(np.float32),
                text_mask=stored["text_mask"][i],
                motion=BodyPose(*(jnp.asarray(parts[n][i]) for n in _MOTION)),
                start=int(stored["start"][i]),
                phones=tuple(Phone(str(s), float(a), float(b)) for s, (a, b) in spans),
                sentence=str(stored["sentence"][i]),
            )
        )
    return clips
