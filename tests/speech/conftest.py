"""Models and speech that the speech tests share."""

import shutil

import numpy as np
import pytest

from jaxavatar.errors import InputError
from jaxavatar.speech import vocabulary as vocabulary_file
from jaxavatar.speech import voice, whisper_file

SENTENCE = "Bob baked five blueberry pies, and Mama gave them away. Who would believe that?"


def _or_skip(fetch):
    try:
        return fetch()
    except InputError as error:
        pytest.skip(f"no weights here: {error}")


@pytest.fixture(scope="session")
def whisper():
    """Whisper tiny.en."""
    return _or_skip(whisper_file.pretrained)


@pytest.fixture(scope="session")
def vocabulary():
    """Its vocabulary."""
    return _or_skip(vocabulary_file.pretrained)


@pytest.fixture(scope="session")
def needs_flite():
    """Skip where the text-to-speech program is missing."""
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")


@pytest.fixture(scope="session")
def spoken(needs_flite):
    """Samples and phones of `SENTENCE`."""
    return voice.speak(SENTENCE)


@pytest.fixture
def noise():
    """Two seconds of noise at a speech-like level."""
    return (0.05 * np.random.default_rng(0).normal(size=32000)).astype(np.float32)
