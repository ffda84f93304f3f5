"""Wan2.1 with OmniAvatar's adapter as a `VideoTeacher`.

The first latent frame stands for the reference picture: the network sees it clean, and the
velocity returned for it is the one that leads there.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.teachers.protocol import TeacherSpec, Told
from jaxavatar.teachers.wan.config import WanConfig
from jaxavatar.teachers.wan.decoder import decode
from jaxavatar.teachers.wan.encoder import encode
from jaxavatar.teachers.wan.init import init_autoencoder, init_transformer
from jaxavatar.teachers.wan.transformer import WanTransformer

Params = dict[str, Any]


@flax.struct.dataclass
class WanCondition:
    """What a prediction is conditioned on.

    Attributes:
        reference: latents of the reference picture.
        text: embeddings, filled up with zeros.
        audio: speech features of the frames; those of the first, which is given, are zero.
    """

    reference: Float[Array, "B h w z"]
    text: Float[Array, "B L e"]
    audio: Float[Array, "B T a"]


@dataclasses.dataclass(frozen=True)
class WanTeacher:
    """The teacher.

    Its parameters are {"transformer", "encoder", "decoder", "null_text"}, the last one being the
    embeddings [L, e] that stand for no text: those of a negative prompt, or zeros.

    Attributes:
        config: with the audio adapter.
    """

    config: WanConfig

    @property
    def spec(self) -> TeacherSpec:
        """4 n + 1 frames; velocities; text and audio can be left out."""
        autoencoder = self.config.autoencoder
        return TeacherSpec(
            fps=self.config.fps,
            frame_step=autoencoder.time,
            first_frames=1,
            size_multiple=autoencoder.space * self.config.transformer.patch,
            drops=("text", "audio"),
            shift=self.config.shift,
        )

    def init(self, key: jax.Array) -> Params:
        """Make random parameters."""
        transformer = self.config.transformer
        keys = jax.random.split(key)
        return {
            "transformer": init_transformer(transformer, keys[0]),
            **init_autoencoder(self.config.autoencoder, keys[1]),
            "null_text": jnp.zeros((transformer.text_tokens, transformer.text_width)),
        }

    def condition(self, params: Params, told: Told) -> WanCondition:
        """Encode the reference picture, fill up the text; without text it is the null text.

        Args:
            params: of the teacher.
            told: `audio` are the features of the clip's 4 n + 1 frames: of wav2vec 2.0 base, the
                last layer and then all 13 states; `text` are umt5-xxl's embeddings.

        Raises:
            ValueError: the shapes do not fit the teacher.
        """
        transformer = self.config.transformer
        batch = len(told.reference)
        if transformer.audio is None or told.audio.shape[2] != transformer.audio.features:
            raise ValueError(
                f"speech features of {told.audio.shape[2]} numbers do not fit {transformer.audio}"
            )
        text = jnp.broadcast_to(params["null_text"], (batch, *params["null_text"].shape))
        if told.text is not None:
            _, count, width = told.text.shape
            if count > transformer.text_tokens or width != transformer.text_width:
                raise ValueError(
                    f"texts are at most {transformer.text_tokens} embeddings of"
                    f" {transformer.text_width} numbers, got {count} of {width}"
                )
            text = jnp.pad(told.text, ((0, 0), (0, transformer.text_tokens - count), (0, 0)))
        reference = self.encode(params, told.reference[:, None])[:, 0]
        audio = told.audio.at[:, 0].set(0.0)
        return jax.lax.stop_gradient(WanCondition(reference, text, audio))

    def drop(self, params: Params, condition: WanCondition, name: str) -> WanCondition:
        """Leave out "text" or "audio", whose features become zero."""
        if name == "audio":
            return dataclasses.replace(condition, audio=jnp.zeros_like(condition.audio))
        if name == "text":
            return dataclasses.replace(
                condition, text=jnp.broadcast_to(params["null_text"], condition.text.shape)
            )
        raise ValueError(f"{name!r} cannot be left out, only {self.spec.drops}")

    def encode(
        self, params: Params, frames: Float[Array, "B T H W 3"]
    ) -> Float[Array, "B F h w z"]:
        """Encode frames in [0, 1]; see `encoder.encode`."""
        return encode(self.config.autoencoder, params["encoder"], frames)

    def decode(
        self, params: Params, latents: Float[Array, "B F h w z"]
    ) -> Float[Array, "B T H W 3"]:
        """Decode latents to frames in [0, 1]; see `decoder.decode`."""
        return decode(self.config.autoencoder, params["decoder"], latents)

    def predict(
        self,
        params: Params,
        noisy: Float[Array, "B F h w z"],
        tau: Float[Array, " B"],
        condition: WanCondition,
    ) -> Float[Array, "B F h w z"]:
        """Predict the velocity eps - z of noisy latents at times tau in (0, 1]."""
        reference = jnp.broadcast_to(condition.reference[:, None], noisy.shape)
        seen = noisy.at[:, 0].set(reference[:, 0])
        free = jnp.ones_like(noisy[..., :1]).at[:, 0].set(0.0)
        velocity: Any = WanTransformer(self.config.transformer).apply(
            {"params": params["transformer"]},
            jnp.concatenate([seen, reference, free], axis=-1),
            1000.0 * tau,
            condition.text,
            condition.audio,
        )
        known = (noisy[:, 0] - reference[:, 0]) / tau[:, None, None, None]
        return velocity.astype(noisy.dtype).at[:, 0].set(known)
