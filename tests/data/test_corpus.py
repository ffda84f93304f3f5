"""Sentences are reproducible, varied and made only of what they may be made of."""

import re

from jaxavatar.data.corpus import sentence

WORDS = ("river", "stone", "window", "garden")


def test_a_seed_is_a_sentence():
    assert [sentence(s, WORDS) for s in range(20)] == [sentence(s, WORDS) for s in range(20)]


def test_seeds_differ():
    said = {sentence(s, WORDS) for s in range(0, 400, 2)}
    assert len(said) > 190


def test_odd_seeds_use_only_the_given_words():
    for seed in range(1, 60, 2):
        words = re.findall(r"[a-z]+", sentence(seed, WORDS).lower())
        assert set(words) <= set(WORDS)
        assert 5 <= len(words) < 10
    assert any("," in sentence(seed, WORDS) for seed in range(1, 60, 2))


def test_even_seeds_do_not():
    for seed in range(0, 60, 2):
        assert sentence(seed, WORDS) == sentence(seed, ("other",))
        assert len(sentence(seed, WORDS).split()) >= 5


def test_they_read_like_sentences():
    for seed in range(200):
        text = sentence(seed, WORDS)
        assert text[0].isupper()
        assert re.fullmatch(r"[A-Za-z]+(,? [A-Za-z]+)*\.", text), text
