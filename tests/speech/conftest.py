"""Models and speech that the speech tests share."""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

from jaxavatar.errors import InputError
from jaxavatar.speech import vocabulary as vocabulary_file
from jaxavatar.speech import voice, whisper_file

HELPERS = pathlib.Path(__file__).parents[1] / "helpers"
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


@pytest.fixture(scope="session")
def oracle():
    """The module `tests/helpers/speech_oracle.py`."""
    spec = importlib.util.spec_from_file_location("speech_oracle", HELPERS / "speech_oracle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tmp_path, oracle):
    """Write a checkpoint of random weights with its config.json; return the safetensors file."""

    def write(name, shapes=None):
        path = tmp_path / "model.safetensors"
        shapes = shapes or oracle.load()[name][0]
        safetensors.numpy.save_file(oracle.weights(shapes), path)
        (tmp_path / "config.json").write_text(json.dumps(oracle.CONFIGS[name]))
        return path

    return write
