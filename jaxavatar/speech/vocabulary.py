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


def load(
    tokenizer: str | os.PathLike[str], config: str | os.PathLike[str], language: str = "en"
) -> Vocabulary:
    """Read the vocabulary from `tokenizer.json` and the suppression lists from a JSON file.

    Args:
        tokenizer: of the tokenizers library.
        config: CTranslate2's `config.json`, or `generation_config.json` of Hugging Face.
        language: as for `parse`.

    Raises:
        InputError: a file is missing or damaged, or has no such language.
    """
    try:
        texts = [pathlib.Path(file).read_text("utf-8") for file in (tokenizer, config)]
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(f"{tokenizer} with {config}", error) from error
    return parse(*texts, language=language, name=f"{tokenizer} with {config}")


def parse(tokenizer: str, config: str, language: str, name: str) -> Vocabulary:
    """Make the vocabulary from the texts of the two files of `load`.

    Args:
        tokenizer: text of `tokenizer.json`.
        config: text of the file with the suppression lists.
        language: that multilingual models transcribe, such as "en"; the others know English only.
        name: of the files, for messages.

    Raises:
        InputError: a text is damaged, or the model does not know the language.
    """
    try:
        pieces = tokenizers.Tokenizer.from_str(tokenizer)
        lists = json.loads(config)
        start = ["<|startoftranscript|>", "<|notimestamps|>"]
        if lists.get("is_multilingual", "lang_to_id" in lists):
            if pieces.token_to_id(f"<|{language}|>") is None:
                raise InputError(f"{name} does not know the language {language!r}; name another")
            start[1:1] = [f"<|{language}|>", "<|transcribe|>"]
        always, first = _SUPPRESSED[0] if "suppress_ids" in lists else _SUPPRESSED[1]
        return Vocabulary(
            pieces=pieces,
            start=tuple(_id(pieces, token) for token in start),
            end=_id(pieces, "<|endoftext|>"),
            no_speech=_id(pieces, "<|nocaptions|>", "<|nospeech|>"),
            suppressed=tuple(lists[always] or ()),
            suppressed_first=tuple(lists[first] or ()),
        )
    except InputError:
        raise
    # tokenizers raises bare Exceptions for a damaged file.
    except Exception as error:
        raise _damaged(name, error) from error


# Names of the lists in CTranslate2's and in Hugging Face's files.
_SUPPRESSED = (
    ("suppress_ids", "suppress_ids_begin"),
    ("suppress_tokens", "begin_suppress_tokens"),
)


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(
        f"cannot read the vocabulary {name} ({error}); delete both and fetch them again"
    )


def _id(pieces: tokenizers.Tokenizer, *names: str) -> int:
    """Return the token of the first name that exists: some were renamed."""
    for name in names:
        if (number := pieces.token_to_id(name)) is not None:
            return number
    raise ValueError(f"no token {names[0]}")
