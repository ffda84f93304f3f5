"""Sentences for speech synthesis, from a small grammar and from random words.

The grammar gives natural phrasing; the random words, drawn from the vocabulary of the speech
recogniser, give every sound of English in every neighbourhood. Appendix C of the paper asks a
language model for such a corpus instead.
"""

import numpy as np

_OPENERS = (
    "Well",
    "So",
    "Maybe",
    "Honestly",
    "By the way",
    "Of course",
    "Look",
    "I mean",
    "Please",
)
_PEOPLE = ("my brother", "Bob", "Pamela", "the baker", "our mother", "everybody", "the young pilot")
_PEOPLE += ("a famous painter", "Tom", "the boss", "your best friend", "Emma", "the old man")
_VERBS = ("bought", "remembered", "put away", "broke", "admired", "found", "will bring", "packed")
_VERBS += ("might need", "can borrow", "photographed", "never mentioned", "moved", "painted")
_THINGS = ("a purple balloon", "the big map", "five apples", "some warm bread", "an empty box")
_THINGS += ("the piano", "two cups of coffee", "my blue jumper", "a broken umbrella", "the menu")
_THINGS += ("a very small boat", "the whole book", "a pair of shoes", "the photograph", "nothing")
_PLACES = ("on the beach", "before breakfast", "in the park", "at home", "by the window")
_PLACES += ("near the old bridge", "last Monday", "from the shop", "over the weekend", "in Paris")
_TAILS = (
    "",
    "",
    ", if possible",
    ", I believe",
    ", and it was fun",
    ", but we have time",
    ", right",
)


def sentence(seed: int, words: tuple[str, ...]) -> str:
    """Return the sentence of a seed: every second one from the grammar, the others random words.

    Args:
        seed: not negative.
        words: vocabulary for the random sentences.
    """
    rng = np.random.default_rng(seed)

    def pick(options: tuple[str, ...]) -> str:
        return options[rng.integers(len(options))]

    if seed % 2:
        chosen = [pick(words) for _ in range(rng.integers(5, 10))]
        if rng.random() < 0.5:
            chosen.insert(int(rng.integers(1, len(chosen))), ",")
        return " ".join(chosen).replace(" ,", ",").capitalize() + "."
    opener = pick(_OPENERS) + ", " if rng.random() < 0.4 else ""
    text = f"{opener}{pick(_PEOPLE)} {pick(_VERBS)} {pick(_THINGS)} {pick(_PLACES)}{pick(_TAILS)}."
    return text[0].upper() + text[1:]
