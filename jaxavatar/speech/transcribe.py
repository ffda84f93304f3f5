"""Speech to text, and the text embeddings Z, by Whisper's decoder in segments of 30 s."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxavatar.errors import InputError
from jaxavatar.speech import mel
from jaxavatar.speech.vocabulary import Vocabulary
from jaxavatar.speech.whisper import Decoder, Encoder
from jaxavatar.speech.whisper_file import Whisper
from jaxavatar.structs import FPS, SAMPLE_RATE, SEGMENT_FRAMES

TEXT_TOKENS = 64  # L, rows of Z per segment
MAX_TOKENS = 192  # of a segment's transcript: 6.4 per second, about twice the usual
NO_SPEECH = 0.6  # Whisper's threshold

_SEGMENT = SEGMENT_FRAMES // FPS * SAMPLE_RATE


def transcribe(
    whisper: Whisper, vocabulary: Vocabulary, samples: Float[np.ndarray, " S"]
) -> tuple[str, ...]:
    """Transcribe speech greedily, segment by segment.

    Args:
        whisper: the model.
        vocabulary: of the same model.
        samples: 16 kHz mono.

    Returns:
        The text of each segment of 30 s; "" where nobody speaks.
    """
    sounds = [_hear(whisper, segment) for segment in _segments(samples)]
    return tuple(_transcribe(whisper, vocabulary, sound) for sound in sounds)


def text_embeddings(
    whisper: Whisper,
    vocabulary: Vocabulary,
    samples: Float[np.ndarray, " S"],
    text: str | None = None,
) -> tuple[Float[np.ndarray, "S L d_z"], Bool[np.ndarray, "S L"], str]:
    """Compute the token embeddings of each segment: the decoder's states as it reads the text.

    The decoder reads the tokens (teacher forcing) while it hears the segment; the state after a
    token is that token's embedding. A text of more than L = 64 tokens is averaged over neighbours
    into 64 rows, so that nothing of it is lost.

    Args:
        whisper: the model.
        vocabulary: of the same model.
        samples: 16 kHz mono.
        text: what is said, if known; it is spread over the segments in proportion to time.
            None transcribes the speech.

    Returns:
        Z, which rows exist, and the text used.

    Raises:
        InputError: the text is too long to be said in that time.
    """
    sounds = [_hear(whisper, segment) for segment in _segments(samples)]
    if text is None:
        texts = tuple(_transcribe(whisper, vocabulary, sound) for sound in sounds)
    else:
        texts = _spread(text, len(samples))
    rows, masks = [], []
    for said, sound in zip(texts, sounds, strict=True):
        tokens = vocabulary.tokenize(said)
        if len(tokens) > MAX_TOKENS:
            raise InputError(
                f"the text is too long for {len(samples) / SAMPLE_RATE:.1f} s of speech"
                f" ({len(tokens)} tokens in one segment of 30 s); give the text that is spoken"
            )
        states = _read(whisper, _padded(vocabulary, tokens), sound)[len(vocabulary.start) :]
        rows.append(_pooling(len(tokens)) @ np.asarray(states))
        masks.append(np.arange(TEXT_TOKENS) < len(tokens))
    return np.stack(rows), np.stack(masks), " ".join(said for said in texts if said)


def _segments(samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, "S segment"]:
    count = math.ceil(len(samples) / _SEGMENT)
    return np.pad(samples, (0, count * _SEGMENT - len(samples))).reshape(count, _SEGMENT)


@jax.jit
def _hear(whisper: Whisper, segment: Float[Array, " segment"]) -> Float[Array, "n d"]:
    encode: Callable[..., Any] = Encoder(whisper.config).apply
    frames = mel.whisper_log_mel(segment, whisper.config.mels)
    return encode({"params": whisper.encoder}, frames)[-1]


def _decoder(whisper: Whisper) -> Callable[..., Any]:
    """Return the decoder as a function of its inputs and `method=`."""
    return functools.partial(Decoder(whisper.config).apply, {"params": whisper.decoder})


def _transcribe(whisper: Whisper, vocabulary: Vocabulary, sound: Float[Array, "n d"]) -> str:
    banned = np.zeros((2, whisper.config.vocabulary), bool)
    banned[:, list(vocabulary.suppressed)] = True
    banned[:, vocabulary.end + 1 :] = True  # special tokens and timestamps
    banned[0, list(vocabulary.suppressed_first)] = True
    start = jnp.asarray(vocabulary.start)
    tokens, count, no_speech = _greedy(
        whisper, sound, start, jnp.asarray(banned), vocabulary.end, vocabulary.no_speech
    )
    if no_speech > NO_SPEECH:
        return ""
    return vocabulary.detokenize(np.asarray(tokens[:count]).tolist())


@jax.jit
def _greedy(
    whisper: Whisper,
    sound: Float[Array, "n d"],
    start: Int[Array, " p"],
    banned: Bool[Array, "2 vocabulary"],
    end: Int[Array, ""],
    no_speech: Int[Array, ""],
) -> tuple[Int[Array, " max"], Int[Array, ""], Float[Array, ""]]:
    """Generate tokens until `end`; return them, their number and the no-speech probability.

    `banned` holds the tokens forbidden at the first place, and at all others.
    """
    call = _decoder(whisper)
    length = len(start) + MAX_TOKENS
    heard = call(sound, method="hear")
    states, kept = call(start, 0, call(length, method="silence"), heard)
    scores = call(states, method="logits")

    def choose(scores: Float[Array, " vocabulary"], forbidden: Bool[Array, " vocabulary"]):
        return jnp.argmax(jnp.where(forbidden, -jnp.inf, scores))

    def unfinished(carry):
        token, count, _, _ = carry
        return (token != end) & (count < MAX_TOKENS)

    def extend(carry):
        token, count, tokens, kept = carry
        tokens = tokens.at[count].set(token)
        states, kept = call(token[None], len(start) + count, kept, heard)
        following = choose(call(states, method="logits")[0], banned[1])
        return following, count + 1, tokens, kept

    first = choose(scores[-1], banned[0])
    begin = (first, jnp.int32(0), jnp.full(MAX_TOKENS, end), kept)
    _, count, tokens, _ = jax.lax.while_loop(unfinished, extend, begin)
    return tokens, count, jax.nn.softmax(scores[0])[no_speech]


@jax.jit
def _read(
    whisper: Whisper, tokens: Int[Array, " n"], sound: Float[Array, "m d"]
) -> Float[Array, "n d"]:
    call = _decoder(whisper)
    empty = call(len(tokens), method="silence")
    return call(tokens, 0, empty, call(sound, method="hear"))[0]


def _padded(vocabulary: Vocabulary, tokens: list[int]) -> Int[np.ndarray, " n"]:
    filled = np.full(len(vocabulary.start) + MAX_TOKENS, vocabulary.end, np.int32)
    known = [*vocabulary.start, *tokens]
    filled[: len(known)] = known
    return filled


def _pooling(count: int) -> Float[np.ndarray, "L max"]:
    """Return the matrix that puts `count` tokens into at most L rows, averaging neighbours."""
    weights = np.zeros((TEXT_TOKENS, MAX_TOKENS), np.float32)
    place = np.arange(count)
    row = place if count <= TEXT_TOKENS else place * TEXT_TOKENS // count
    weights[row, place] = 1
    return weights / np.maximum(weights.sum(1, keepdims=True), 1)


def _spread(text: str, samples: int) -> tuple[str, ...]:
    """Give each segment the words whose middle falls into it, at a constant rate of letters."""
    words = text.split()
    lengths = np.array([len(word) + 1 for word in words], float)
    middle = (np.cumsum(lengths) - lengths / 2) / max(lengths.sum(), 1) * samples
    segment = middle // _SEGMENT
    return tuple(
        " ".join(word for word, at in zip(words, segment, strict=True) if at == number)
        for number in range(math.ceil(samples / _SEGMENT))
    )
