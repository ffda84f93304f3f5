"""The model: a photo and its crops to canonical Gaussians (paper, sec. 3.1; LHM).

Image tokens of the whole body and of the head are the context of the query points; tokens of the
hands enter as further keys and values (Hand++). The encoders and the rest can be used apart:
`encode` once for a photo, `decode` as often as the decoder changes.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxavatar.reconstruction.transformer.blocks import BodyHeadTransformer
from jaxavatar.reconstruction.transformer.config import TransformerConfig
from jaxavatar.reconstruction.transformer.dinov2 import HeadEncoder
from jaxavatar.reconstruction.transformer.embedding import GlobalCode, PointEmbedding, merge
from jaxavatar.reconstruction.transformer.gaussians import (
    FINAL_CLIP,
    CanonicalGaussians,
    DecoderNetwork,
    GaussianLayer,
    WeightDecoder,
)
from jaxavatar.reconstruction.transformer.placed import (
    Changes,
    PhotoPoints,
    PlacedDecoder,
    around_queries,
)
from jaxavatar.reconstruction.transformer.vit import VisionTransformer

_HANDS = 2  # left, right


@flax.struct.dataclass
class Crops:
    """What the encoders see of a photo, RGB in [0, 1].

    Attributes:
        body: the whole person on white, of the body encoder's size.
        head: square around the head, of the head encoder's size.
        hands: left and right, of the hand encoder's size; the left one mirrored, so that both
            look like right hands. None where the model has no hand branch.
        hands_seen: which of the hands the photo shows; the crops of the others are not read.
    """

    body: Float[Array, "B H W 3"]
    head: Float[Array, "B S S 3"]
    hands: Float[Array, "B 2 h w 3"] | None = None
    hands_seen: Bool[Array, "B 2"] | None = None


@flax.struct.dataclass
class ImageTokens:
    """What the encoders make of a photo.

    Attributes:
        body: one token per patch of the photo, row by row.
        head: one token per patch of the head crop; at most as wide as the body's.
        hands: tokens of the left and of the right hand; None without a hand branch.
        hands_seen: which of the hands the photo shows.
    """

    body: Float[Array, "B m c"]
    head: Float[Array, "B k e"]
    hands: Float[Array, "B 2 t f"] | None = None
    hands_seen: Bool[Array, "B 2"] | None = None


class HandProjection(nn.Module):
    """Hand tokens in the transformer's width, told apart by side.

    A hand that the photo does not show is one learned token, repeated.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B 2 t f"], seen: Bool[Array, "B 2"]
    ) -> Float[Array, "B two_t d"]:
        """Return the left hand's tokens, then the right hand's."""
        width = self.config.width
        small = nn.initializers.normal(0.02)
        projected = nn.Dense(width, dtype=self.config.dtype, name="linear")(tokens)
        unseen = self.param("unseen", small, (width,))
        projected = jnp.where(seen[:, :, None, None], projected.astype(unseen.dtype), unseen)
        sides = self.param("sides", small, (_HANDS, width))
        return (projected + sides[:, None]).reshape(tokens.shape[0], -1, width)


class Reconstructor(nn.Module):
    """Encoders, transformer and decoders."""

    config: TransformerConfig

    def setup(self) -> None:
        """Create the parts."""
        config, dtype = self.config, self.config.dtype
        self.body_encoder = VisionTransformer(config.body, config.remat, dtype)
        self.head_encoder = HeadEncoder(config.head, config.remat, dtype)
        self.point_embedding = PointEmbedding(config.width)
        self.global_code = GlobalCode(config.width, dtype)
        self.transformer = BodyHeadTransformer(
            config.layers, config.heads, config.body.tokens, config.remat, dtype
        )
        decoder: Any = PlacedDecoder if config.placed else DecoderNetwork
        self.decoder = decoder(config.decoder_width, dtype)
        if config.placed:
            self.photo_embedding = nn.Dense(config.width, dtype=dtype)
        else:
            self.gaussians = GaussianLayer(config.sh_degree)
        if config.hand_branch:
            self.hand_encoder = VisionTransformer(config.hand, config.remat, dtype)
            self.hand_projection = HandProjection(config)
        if config.weight_decoder:
            self.weight_decoder = WeightDecoder(config.decoder_width, dtype)

    def encode(self, crops: Crops) -> ImageTokens:
        """Return the tokens of a photo.

        Raises:
            ValueError: the model has a hand branch and there are no hand crops.
        """
        body, head = self.body_encoder(crops.body), self.head_encoder(crops.head)
        if not self.config.hand_branch:
            return ImageTokens(body, head)
        if crops.hands is None or crops.hands_seen is None:
            raise ValueError("a model with a hand branch needs hand crops and which are seen")
        batch = crops.hands.shape[0]
        hands = self.hand_encoder(crops.hands.reshape(batch * _HANDS, *crops.hands.shape[2:]))
        hands = hands.reshape(batch, _HANDS, *hands.shape[1:])
        return ImageTokens(body, head, hands, crops.hands_seen)

    def features(
        self,
        points: Float[Array, "B N 3"],
        tokens: ImageTokens,
        photo: PhotoPoints | None = None,
    ) -> Float[Array, "B N d"]:
        """Return the points' features, the avatar's tokens Q.

        Args:
            points: query points in the canonical pose, metres; the last quarter on the head.
            tokens: from `encode`, or from other encoders of the same widths.
            photo: the placed points, for a model of such.

        Raises:
            ValueError: the model has a hand branch and there are no hand tokens, the number of
                body tokens is not the configured one, or a model of placed points gets none.
        """
        if tokens.body.shape[1] != self.config.body.tokens:
            raise ValueError(
                f"{tokens.body.shape[1]} body tokens, expected {self.config.body.tokens}"
            )
        hands = None
        if self.config.hand_branch:
            if tokens.hands is None or tokens.hands_seen is None:
                raise ValueError("a model with a hand branch needs hand tokens and which are seen")
            hands = self.hand_projection(tokens.hands, tokens.hands_seen)
        embedded = self.point_embedding(points)
        if self.config.placed:
            if photo is None:
                raise ValueError("a model of placed points needs them")
            embedded = embedded + self.photo_embedding(around_queries(photo, points.shape[1]))
        return self.transformer(
            embedded,
            merge(tokens.body, tokens.head),
            self.global_code(tokens.body),
            hands,
        )

    def decode(
        self,
        points: Float[Array, "B N 3"],
        features: Float[Array, "B N d"],
        clip: Float[Array, ""] | float = FINAL_CLIP,
        upper_body: Bool[Array, " N"] | None = None,
        template_weights: Float[Array, "N J"] | None = None,
    ) -> CanonicalGaussians:
        """Return the Gaussians; this is the part D_G that is fine-tuned for a person.

        Args:
            points: as for `features`.
            features: from `features`.
            clip: bound of the Gaussians' sizes, metres; see `gaussians.scale_clip`.
            upper_body: points whose Gaussians stay below 0.02 m.
            template_weights: skinning weights of the template at the points.

        Raises:
            ValueError: the model has a weight decoder and there are no template weights.
        """
        weights = None
        if self.config.weight_decoder:
            if template_weights is None:
                raise ValueError("a model with a weight decoder needs the template's weights")
            weights = self.weight_decoder(features, template_weights)
        elif template_weights is not None:
            shape = (points.shape[0], *template_weights.shape)
            weights = jnp.broadcast_to(template_weights, shape)
        decoded = self.gaussians(self.decoder(features), points, clip, upper_body)
        return dataclasses.replace(decoded, weights=weights)

    def change(
        self,
        features: Float[Array, "B M d"],
        photo: PhotoPoints,
        template_weights: Float[Array, "B N J"],
    ) -> Changes:
        """Return what changes of placed points: the decoder D_G of a model of such.

        Args:
            features: from `features`.
            photo: the placed points; not necessarily those that `features` read.
            template_weights: skinning weights of the template at the placed points.
        """
        changes = self.decoder(features, photo)
        if not self.config.weight_decoder:
            return dataclasses.replace(changes, weights=template_weights)
        weights = self.weight_decoder(features, template_weights, photo)
        return dataclasses.replace(changes, weights=weights)

    def change_placed(
        self,
        points: Float[Array, "B M 3"],
        crops: Crops,
        photo: PhotoPoints,
        template_weights: Float[Array, "B N J"],
    ) -> Changes:
        """Regress what changes of the points placed on a photo.

        Arguments as for `features`, `encode` and `change`.
        """
        features = self.features(points, self.encode(crops), photo)
        return self.change(features, photo, template_weights)

    def reconstruct(
        self,
        points: Float[Array, "B N 3"],
        tokens: ImageTokens,
        clip: Float[Array, ""] | float = FINAL_CLIP,
        upper_body: Bool[Array, " N"] | None = None,
        template_weights: Float[Array, "N J"] | None = None,
    ) -> CanonicalGaussians:
        """Regress the Gaussians from image tokens; arguments as for `features` and `decode`."""
        features = self.features(points, tokens)
        return self.decode(points, features, clip, upper_body, template_weights)

    def __call__(
        self,
        points: Float[Array, "B N 3"],
        crops: Crops,
        clip: Float[Array, ""] | float = FINAL_CLIP,
        upper_body: Bool[Array, " N"] | None = None,
        template_weights: Float[Array, "N J"] | None = None,
    ) -> CanonicalGaussians:
        """Regress the Gaussians of a photo; arguments as for `encode` and `reconstruct`."""
        return self.reconstruct(points, self.encode(crops), clip, upper_body, template_weights)
