"""A teacher with a closed form: clips that are known, each with a Gaussian around it.

    p(z | audio) = sum_k w_k(audio) N(z; c_k, s^2)

What a perfectly trained network would predict for this distribution can be written down, so eq. 8
can be checked exactly, without any training: with one clip its fixed point is that clip. With the
stored clips of an expensive teacher it is an approximation of that teacher which needs it no more:
score distillation then pulls towards the stored clips that fit the sound and the current frames.

Latents are the pixels themselves, z = 2 I - 1.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.teachers.protocol import TeacherSpec, Told


@flax.struct.dataclass
class KnownClips:
    """The parameters: K clips of T frames, with their sound.

    Attributes:
        frames: [0, 1].
        audio: speech features at the frame rate.
    """

    frames: Float[Array, "K T H W 3"]
    audio: Float[Array, "K T d_a"]


@dataclasses.dataclass(frozen=True)
class AnalyticTeacher:
    """The closed form as a `VideoTeacher`; its `Params` are `KnownClips`.

    Attributes:
        spec: its schedule and prediction may be any; the one condition to drop is "audio".
        spread: s, standard deviation around each clip, in units of z (frames span 2); 0 allows
            nothing but the clips.
        kernel: distance of speech features, root mean square over frames and features, at which a
            clip counts exp(-1/2) of one with exactly the given sound.
    """

    spec: TeacherSpec = dataclasses.field(default_factory=TeacherSpec)
    spread: float = 0.1
    kernel: float = 0.1

    def condition(self, params: KnownClips, told: Told) -> Float[Array, "B K"]:
        """Return the logarithm of each clip's weight w_k, up to a constant."""
        differences = told.audio[:, None] - params.audio
        return -0.5 * jnp.mean(differences**2, axis=(2, 3)) / self.kernel**2

    def drop(
        self, params: KnownClips, condition: Float[Array, "B K"], name: str
    ) -> Float[Array, "B K"]:
        """Give all clips the same weight.

        Raises:
            ValueError: the name is not "audio".
        """
        if name != "audio":
            raise ValueError(f"only 'audio' can be left out, not {name!r}")
        return jnp.zeros_like(condition)

    def encode(
        self, params: KnownClips, frames: Float[Array, "B T H W 3"]
    ) -> Float[Array, "B T H W 3"]:
        """Return z = 2 I - 1."""
        return 2.0 * frames - 1.0

    def decode(
        self, params: KnownClips, latents: Float[Array, "B T H W 3"]
    ) -> Float[Array, "B T H W 3"]:
        """Return I = (z + 1) / 2."""
        return 0.5 * (latents + 1.0)

    def predict(
        self,
        params: KnownClips,
        noisy: Float[Array, "B T H W 3"],
        tau: Float[Array, " B"],
        condition: Float[Array, "B K"],
    ) -> Float[Array, "B T H W 3"]:
        """Return the expectation of `spec.prediction` given z_tau, tau in (0, 1]."""
        alpha, sigma = self.spec.schedule.alpha(tau), self.spec.schedule.sigma(tau)
        clean = self._expected(params, noisy, alpha, sigma, condition)
        alpha, sigma = (level.reshape(-1, 1, 1, 1, 1) for level in (alpha, sigma))
        noise = (noisy - alpha * clean) / sigma
        match self.spec.prediction:
            case "clean":
                return clean
            case "noise":
                return noise
            case "velocity":
                return noise - clean
            case "rotated":
                return alpha * noise - sigma * clean

    def _expected(
        self,
        params: KnownClips,
        noisy: Float[Array, "B T H W 3"],
        alpha: Float[Array, " B"],
        sigma: Float[Array, " B"],
        condition: Float[Array, "B K"],
    ) -> Float[Array, "B T H W 3"]:
        """Return E[z | z_tau]: where each clip's Gaussian expects z, weighted by its posterior."""
        clips = self.encode(params, params.frames)
        variance = (alpha * self.spread) ** 2 + sigma**2

        def distance(clip: Float[Array, "T H W 3"]) -> Float[Array, " B"]:
            apart = noisy - alpha.reshape(-1, 1, 1, 1, 1) * clip
            return jnp.sum(apart**2, axis=(1, 2, 3, 4))

        # One clip after the other: B K clips need never be in memory.
        distances = jax.lax.map(distance, clips).T
        weights = jax.nn.softmax(condition - 0.5 * distances / variance[:, None], axis=1)
        mean = jnp.einsum("bk,kthwc->bthwc", weights, clips, precision="highest")
        towards = (alpha * self.spread**2 / variance).reshape(-1, 1, 1, 1, 1)
        return mean + towards * (noisy - alpha.reshape(-1, 1, 1, 1, 1) * mean)
