"""What the networks know about each Gaussian: its place on the anatomy and its person.

The first columns describe the anatomical spot and are the same for everybody; the last ones
describe the person. Blanking the latter turns an avatar token of Q into a template token of Q_0.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.deformer.config import DriverConfig
from jaxavatar.structs import Avatar

_LONGEST = 2.0  # metres: the longest wavelength, a person's height
_FACE_UNIT_SCALE = 100.0  # a displacement of one centimetre becomes 1
_OFFSET_SCALE = 20.0  # people differ from the template by about 5 cm
_PERSON_COLUMNS = 6


def fourier(points: Float[Array, "N 3"], octaves: int) -> Float[Array, "N six_octaves"]:
    """Return sines and cosines of the coordinates at wavelengths 2 m / 2^k, k < octaves."""
    frequencies = 2 * jnp.pi / _LONGEST * 2.0 ** jnp.arange(octaves)
    phase = (points[:, :, None] * frequencies).reshape(points.shape[0], -1)
    return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


class GaussianFeatures(nn.Module):
    """Describe every Gaussian of an avatar.

    The code of the face units is what tells the upper from the lower lip: closed lips are a
    millimetre apart on the template, but jawOpen moves one and not the other. It is linear, so
    it is a learned basis of how the face moves.
    """

    config: DriverConfig

    @nn.compact
    def __call__(self, avatar: Avatar) -> Float[Array, "N F"]:
        """Return one row per Gaussian; the last `_PERSON_COLUMNS` depend on the person."""
        units = _FACE_UNIT_SCALE * avatar.face_units.reshape(avatar.n_face, -1)
        code = nn.Dense(self.config.face_code, use_bias=False, name="face_code")(units)
        others = avatar.means.shape[0] - avatar.n_face
        return jnp.concatenate(
            [
                fourier(avatar.template_points, self.config.octaves),
                jnp.pad(code, ((0, others), (0, 0))),
                avatar.weights,
                _OFFSET_SCALE * (avatar.means - avatar.template_points),
                avatar.colors - 0.5,
            ],
            axis=-1,
        )


def without_person(features: Float[Array, "N F"]) -> Float[Array, "N F"]:
    """Blank what depends on the person: features of the template, for Q_0."""
    return features.at[:, -_PERSON_COLUMNS:].set(0.0)
