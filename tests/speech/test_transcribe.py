"""Transcripts of real speech, tokens and text embeddings."""

import pathlib
import re

import numpy as np
import pytest

from jaxavatar.errors import InputError
from jaxavatar.speech import sound, transcribe

LIBRIVOX = pathlib.Path("/usr/share/pocketsphinx/test/data/librivox")


def spoken_files():
    """LibriVox recordings with their transcripts (Debian's pocketsphinx-testdata)."""
    listing = LIBRIVOX / "transcription"
    if not listing.is_file():
        pytest.skip("pocketsphinx-testdata is not installed")
    for line in listing.read_text().splitlines():
        found = re.fullmatch(r"<s> (.*) </s> \((.*)\)", line)
        assert found is not None
        words, name = found.groups()
        yield LIBRIVOX / f"{name}.wav", words


def word_errors(said: str, heard: str) -> int:
    """Edit distance in words, without case and punctuation."""
    a, b = (re.sub(r"[^a-z ]", " ", text.lower()).split() for text in (said, heard))
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1]


def test_real_speech(whisper, vocabulary):
    errors = words = 0
    for path, said in spoken_files():
        (heard,) = transcribe.transcribe(whisper, vocabulary, sound.load(path))
        errors += word_errors(said.replace("mister", "mr"), heard)
        words += len(said.split())
    assert errors / words < 0.08  # measured: 3 of 71


def test_nobody_speaks(whisper, vocabulary, noise):
    silence = np.zeros(48000, np.float32)
    assert transcribe.transcribe(whisper, vocabulary, silence) == ("",)
    z, mask, text = transcribe.text_embeddings(whisper, vocabulary, silence)
    assert text == ""
    assert not mask.any()
    assert not z.any()


def test_embeddings_of_given_text(whisper, vocabulary, noise):
    sound_, text = np.tile(noise, 20), "one two three four five six seven eight nine ten"
    z, mask, used = transcribe.text_embeddings(whisper, vocabulary, sound_, text)
    assert used == text
    assert z.shape == (2, 64, 384)
    # 40 s: three quarters of the words belong to the first segment.
    assert mask.sum(1).tolist() == [7, 3]
    assert (np.abs(z).sum(-1) > 0).tolist() == mask.tolist()
    # What was said before a word changes its embedding, what comes after does not.
    other = text.replace("five", "green").split()
    z2, _, _ = transcribe.text_embeddings(whisper, vocabulary, sound_, " ".join(other))
    assert np.abs(z2 - z)[0, :4].max() < 1e-4
    assert np.abs(z2 - z)[0, 5].max() > 1e-2


def test_a_long_text_is_pooled_and_an_impossible_one_refused(whisper, vocabulary, noise):
    _, mask, _ = transcribe.text_embeddings(whisper, vocabulary, noise, "word " * 100)
    assert mask.all()
    with pytest.raises(InputError, match=r"too long for 2\.0 s"):
        transcribe.text_embeddings(whisper, vocabulary, noise, "word " * 400)


@pytest.mark.parametrize("count", [0, 1, 64, 65, 100, 192])
def test_pooling_keeps_every_token_and_the_mean(count):
    weights = transcribe._pooling(count)
    np.testing.assert_allclose(weights.sum(1), np.arange(64) < count, atol=1e-6)
    assert ((weights > 0).sum(0) == (np.arange(192) < count)).all()
    if count <= 64:
        np.testing.assert_array_equal(weights[:count, :count], np.eye(count))


def test_tokens_and_back(vocabulary):
    text = "Été 你好, it's 3.5 %!"
    ids = vocabulary.tokenize(f"  {text}\n")
    assert vocabulary.detokenize(ids) == text
    assert vocabulary.tokenize("Hello world") == [18435, 995]
    assert vocabulary.tokenize("  ") == []
    # Special tokens in a user's text stay out.
    assert max(vocabulary.tokenize("a <|endoftext|> b")) < vocabulary.end
