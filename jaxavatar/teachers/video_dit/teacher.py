"""The video diffusion transformer as a teacher (`protocol.VideoTeacher`)."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.teachers.protocol import Params, TeacherSpec, Told
from jaxavatar.teachers.video_dit.autoencoder import Autoencoder
from jaxavatar.teachers.video_dit.config import VideoDiTConfig
from jaxavatar.teachers.video_dit.network import VideoDiT

_LEAST_TAU = 0.02  # the velocity of a cleaner clip divides by less


@flax.struct.dataclass
class Heard:
    """The condition of a clip.

    Attributes:
        audio: speech features of the clip and `config.reach` frames more on either side.
        heard: 1 where they are known, 0 where they are left out.
        reference: latents of a picture of the person.
    """

    audio: Float[Array, "B T_context d_a"]
    heard: Float[Array, " B"]
    reference: Float[Array, "B h w c"]


@dataclasses.dataclass(frozen=True)
class VideoDiTTeacher:
    """Talks from speech and one picture; parameters are {"dit": ..., "autoencoder": ...}."""

    config: VideoDiTConfig

    @property
    def spec(self) -> TeacherSpec:
        """What it expects and predicts."""
        return self.config.spec

    def init(self, key: jax.Array) -> Params:
        """Draw parameters."""
        config = self.config
        frames, height, width, channels = config.latent_shape
        keys = jax.random.split(key)
        params = VideoDiT(config).init(
            keys[0],
            jnp.zeros((1, frames, height, width, channels)),
            jnp.zeros(1),
            jnp.zeros((1, config.frames + 2 * config.reach, config.audio_width)),
            jnp.zeros(1),
            jnp.zeros((1, height, width, channels)),
        )["params"]
        if config.autoencoder is None:
            return {"dit": params}
        pixels = jnp.zeros((1, config.frames, config.side, config.side, 3))
        coder = Autoencoder(config.autoencoder).init(keys[1], pixels)["params"]
        return {"dit": params, "autoencoder": coder}

    def condition(self, params: Params, told: Told) -> Heard:
        """Encode the reference picture and keep the speech."""
        config = self.config
        repeats = 1 if config.autoencoder is None else config.autoencoder.frames
        still = jnp.repeat(told.reference[:, None], repeats, axis=1)
        reference = self.encode(params, still)[:, 0]
        heard = jnp.ones(len(told.audio), told.audio.dtype)
        return jax.lax.stop_gradient(Heard(told.audio, heard, reference))

    def drop(self, params: Params, condition: Heard, name: str) -> Heard:
        """Leave out the speech.

        Raises:
            ValueError: another condition is named.
        """
        del params
        if name != "audio":
            raise ValueError(f"only 'audio' can be left out, not {name!r}")
        return dataclasses.replace(condition, heard=jnp.zeros_like(condition.heard))

    def encode(self, params: Params, frames: Float[Array, "B T H W 3"]) -> Float[Array, "B *Z"]:
        """Return pixels in [-1, 1], or the autoencoder's latents of them."""
        if self.config.autoencoder is None:
            return 2.0 * frames - 1.0
        return self._coder(params, frames, "encode")

    def decode(self, params: Params, latents: Float[Array, "B *Z"]) -> Float[Array, "B T H W 3"]:
        """Undo `encode`."""
        if self.config.autoencoder is None:
            return 0.5 * (latents + 1.0)
        return self._coder(params, latents, "decode")

    def predict(
        self,
        params: Params,
        noisy: Float[Array, "B *Z"],
        tau: Float[Array, " B"],
        condition: Heard,
    ) -> Float[Array, "B *Z"]:
        """Return the velocity eps - z."""
        clean = self.denoise(params, noisy, tau, condition)
        return (noisy - clean) / jnp.maximum(tau, _LEAST_TAU)[:, None, None, None, None]

    def denoise(
        self,
        params: Params,
        noisy: Float[Array, "B *Z"],
        tau: Float[Array, " B"],
        condition: Heard,
    ) -> Float[Array, "B *Z"]:
        """Return the expected clean clip."""
        centre = condition.reference[:, None]
        keep, residual, gain = precondition(tau, self.config.spread)
        offset = noisy - (1.0 - tau)[:, None, None, None, None] * centre
        output = VideoDiT(self.config).apply(
            {"params": params["dit"]},
            gain * offset,
            tau,
            condition.audio,
            condition.heard,
            condition.reference,
        )
        return centre + keep * offset + residual * output  # pyright: ignore[reportOperatorIssue]

    def _coder(self, params: Params, value: Array, method: str) -> Any:
        assert self.config.autoencoder is not None
        coder = Autoencoder(self.config.autoencoder)
        return coder.apply({"params": params["autoencoder"]}, value, method=method)


def precondition(
    tau: Float[Array, " B"], spread: float
) -> tuple[Float[Array, "B 1 1 1 1"], Float[Array, "B 1 1 1 1"], Float[Array, "B 1 1 1 1"]]:
    """Return what makes the network's input and target have variance 1 at every noise level.

    After Karras et al. (EDM, NeurIPS 2022), for rectified flow and around the reference picture r:
    of z_tau - (1 - tau) r = (1 - tau)(z - r) + tau eps with z - r of deviation `spread`, the best
    linear estimate of z - r is `keep` times it, its error has the deviation `residual`, and
    `gain` normalises it.
    """
    tau = tau[:, None, None, None, None]
    variance = ((1 - tau) * spread) ** 2 + tau**2
    keep = (1 - tau) * spread**2 / variance
    return keep, spread * tau / jnp.sqrt(variance), 1.0 / jnp.sqrt(variance)
