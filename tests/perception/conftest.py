import numpy as np
import pytest

from jaxavatar import weights
from jaxavatar.errors import InputError
from jaxavatar.perception import networks


@pytest.fixture
def network():
    """Load a pretrained network by name; skip where it is neither cached nor to be had."""

    def load(name):
        try:
            weights.path(name)
        except InputError as error:
            pytest.skip(str(error))
        return networks.load(name)

    return load


@pytest.fixture(scope="session")
def astronaut():
    """A half-body photo that comes with scikit-image, 512 x 512, in [0, 1]."""
    data = pytest.importorskip("skimage.data")
    return data.astronaut().astype(np.float32) / 255
