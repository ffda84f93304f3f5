"""The pretrained networks: each is loaded once per process and compiled once."""

import functools

from jaxavatar import weights
from jaxavatar.perception import tflite


@functools.cache
def load(name: str) -> tflite.Network:
    """Load the network `name` of the weights registry.

    The same object comes back every time: its graph is static under jit, so a second object would
    compile a second time.

    Raises:
        InputError: the file cannot be fetched or is damaged.
    """
    return tflite.load(weights.path(name))
