"""Whisper's text tokens: byte-level pieces through the tokenizers library, and what to suppress."""

import dataclasses
import json
import os
import pathlib

import tokenizers

from jaxavatar import weights
from jaxavatar.errors import InputError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Text to tokens and back.

    Attributes:
        pieces: the byte-level tokenizer.
        start: tokens that precede every transcript (no timestamps).
        end: the token that ends a transcript; every larger one is special.
        no_speech: its probability after the first start token says that nobody speaks.
        suppressed: never generated.
        suppressed_first: not generated as the first token.
    """

    pieces: tokenizers.Tokenizer
    start: tuple[int, ...]
    end: int
    no_speech: int
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of plain text (special tokens spelled out in it are no exception).

        White space is collapsed; any language works, byte by byte where it must.
        """
        words = " ".join(text.split())
        if not words:
            return []
        ids = self.pieces.encode(" " + words, add_special_tokens=False).ids
        return [i for i in ids if i < self.end]

    def detokenize(self, ids: list[int]) -> str:
        """Return the text of tokens; special ones are left out, broken UTF-8 becomes U+FFFD."""
        return self.pieces.decode([i for i in ids if i < self.end]).strip()


def pretrained() -> Vocabulary:
    """Load the vocabulary of Whisper tiny.en from the weights registry.

    Raises:
        InputError: the files cannot be fetched.
    """
    tokenizer = weights.path("whisper-tiny.en/tokenizer")
    return load(tokenizer, weights.path("whisper-tiny.en/config"))


def load(tokenizer: str | os.PathLike[str], config: str | os.PathLike[str]) -> Vocabulary:
    """Read the vocabulary from `tokenizer.json` and the suppression lists from `config.json`.

    Raises:
        InputError: a file is missing or damaged.
    """
    try:
        pieces = tokenizers.Tokenizer.from_str(pathlib.Path(tokenizer).read_text("utf-8"))
        lists = json.loads(pathlib.Path(config).read_text("utf-8"))
        return Vocabulary(
            pieces=pieces,
            start=(_id(pieces, "<|startoftranscript|>"), _id(pieces, "<|notimestamps|>")),
            end=_id(pieces, "<|endoftext|>"),
            no_speech=_id(pieces, "<|nocaptions|>"),
            suppressed=tuple(lists["suppress_ids"]),
            suppressed_first=tuple(lists["suppress_ids_begin"]),
        )
    # tokenizers raises bare Exceptions for a damaged file.
    except Exception as error:
        raise InputError(
            f"cannot read the vocabulary {tokenizer} with {config} ({error}); delete both and fetch"
            " them again"
        ) from error


def _id(pieces: tokenizers.Tokenizer, token: str) -> int:
    number = pieces.token_to_id(token)
    if number is None:
        raise ValueError(f"no token {token}")
    return number
