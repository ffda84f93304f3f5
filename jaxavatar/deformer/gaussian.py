"""The Gaussian head: what speech does to single Gaussians beyond skinning (eq. 3-7).

Every Gaussian's query attends to the driving tokens of the frames around t (eq. 3, read with the
Gaussians as queries, so that it has a row per Gaussian), and gated MLPs of its own region (face,
hands, body) turn the sum of query and context into offsets (eq. 4, 5).

The displacement dp lives in the canonical frame and the skinning carries it:
mu* = A (mu + dp) + b = mu' + A dp, with A the skinning's linear part. In eq. 6 as printed dp is
added in the world, where the same smile would need another dp for every turn of the head. The
stretch is treated alike: Sigma* = A (I + dS) Sigma (I + dS)^T A^T, which is eq. 6 for the
matrix A dS A^-1, symmetric where A is a rotation.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxavatar.deformer.config import DriverConfig

_OUTPUTS = 13  # position 3, stretch 6, opacity 1, colour 3


@flax.struct.dataclass
class Offsets:
    """What is added to the Gaussians of one frame.

    Attributes:
        position: dp, canonical metres.
        stretch: dS, symmetric, I + dS positive definite.
        opacity: d alpha.
        color: d c.
    """

    position: Float[Array, "N 3"]
    stretch: Float[Array, "N 3 3"]
    opacity: Float[Array, " N"]
    color: Float[Array, "N 3"]


@flax.struct.dataclass
class Queries:
    """What the head needs of each Gaussian, computed once per avatar.

    Attributes:
        scores: query, to be multiplied with the keys.
        order: logits of the frames of the window by their place in it.
        hidden: the query's share of the gated layer of its region.
        region: 0 face, 1 hand, 2 body.
        sizes: number of face and hand Gaussians, when regions are slices; None for a selection
            of Gaussians in any order (static).
    """

    scores: Float[Array, "N h"]
    order: Float[Array, "N w"]
    hidden: Float[Array, "N two_h"]
    region: Int[Array, " N"]
    sizes: tuple[int, int] | None = flax.struct.field(pytree_node=False)

    def select(self, index: Int[Array, " K"]) -> "Queries":
        """Return the queries of some Gaussians."""
        rows = jax.tree.map(lambda leaf: leaf[index], self)
        return dataclasses.replace(rows, sizes=None)


class GaussianHead(nn.Module):
    """Predict the offsets of Gaussians from the driving tokens around a frame."""

    config: DriverConfig

    def setup(self):
        """Build the layers and the stacked MLPs of face, hands and body."""
        width = self.config.head_width
        self.query_in = nn.Dense(width)
        self.query_out = nn.Dense(width)
        self.scores = nn.Dense(width, use_bias=False)
        self.order = nn.Dense(2 * self.config.window + 1, bias_init=_centred)
        self.norm = nn.LayerNorm()
        self.key = nn.Dense(width, use_bias=False)
        self.value = nn.Dense(width)
        regions = nn.initializers.lecun_normal(batch_axis=0)
        self.gated = self.param("gated", regions, (3, width, 2 * width))
        self.gated_bias = self.param("gated_bias", nn.initializers.zeros, (3, 2 * width))
        self.out = self.param("out", nn.initializers.normal(1e-2), (3, width, _OUTPUTS))
        self.out_bias = self.param("out_bias", nn.initializers.zeros, (3, _OUTPUTS))

    def queries(self, features: Float[Array, "N F"], sizes: tuple[int, int]) -> Queries:
        """Prepare an avatar's Gaussians.

        Args:
            features: from `tokens.GaussianFeatures`, ordered face, hands, body.
            sizes: number of face and of hand Gaussians.
        """
        query = self.query_out(nn.gelu(self.query_in(features)))
        parts = _slices(sizes, query.shape[0])
        hidden = [query[part] @ self.gated[k] + self.gated_bias[k] for k, part in enumerate(parts)]
        rows = jnp.arange(query.shape[0])
        return Queries(
            scores=self.scores(query),
            order=self.order(query),
            hidden=jnp.concatenate(hidden),
            region=(rows >= sizes[0]).astype(int) + (rows >= sum(sizes)),
            sizes=sizes,
        )

    def __call__(
        self, queries: Queries, driving: Float[Array, "w d"], valid: Bool[Array, " w"]
    ) -> Offsets:
        """Return the offsets of one frame.

        Only the gate and the output run per Gaussian and frame. The layer before them is linear
        in query + attention @ values, so the query's share is prepared by `queries`, and the
        values are projected before they are mixed; the result is the same.

        Args:
            queries: of an avatar, or a selection of them.
            driving: D of the frame and its neighbours, w = 2 * window + 1.
            valid: which of these exist.
        """
        tokens = self.norm(driving)
        logits = queries.scores @ self.key(tokens).T / self.config.head_width**0.5 + queries.order
        mixing = nn.softmax(jnp.where(valid, logits, -1e9))
        values = self.value(tokens)

        def region(k: int, part: slice) -> Float[Array, "P 13"]:
            hidden = queries.hidden[part] + mixing[part] @ (values @ self.gated[k])
            content, gate = jnp.split(hidden, 2, axis=-1)
            return (content * nn.silu(gate)) @ self.out[k] + self.out_bias[k]

        if queries.sizes is None:
            everything = jnp.stack([region(k, slice(None)) for k in range(3)], axis=1)
            raw = jnp.take_along_axis(everything, queries.region[:, None, None], axis=1)[:, 0]
        else:
            parts = _slices(queries.sizes, mixing.shape[0])
            raw = jnp.concatenate([region(k, part) for k, part in enumerate(parts)])
        return self._bounded(raw, queries.region)

    def _bounded(self, raw: Float[Array, "N 13"], region: Int[Array, " N"]) -> Offsets:
        """Squash the outputs into their ranges; blank the regions that the config leaves out."""
        config = self.config
        used = jnp.array([config.face_offsets, config.hand_offsets, True], raw.dtype)[region]
        shift = jnp.array([config.face_shift, config.hand_shift, config.body_shift], raw.dtype)
        raw = used[:, None] * jnp.tanh(raw)
        return Offsets(
            position=shift[region][:, None] * raw[:, :3],
            stretch=config.stretch * symmetric(raw[:, 3:9]),
            opacity=config.opacity_change * raw[:, 9],
            color=config.color_change * raw[:, 10:],
        )


def _centred(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> Float[Array, " w"]:
    """Let attention begin at the frame itself: a mean over the window would blur fast lips."""
    del key
    return jnp.zeros(shape, dtype).at[shape[0] // 2].set(4.0)


def symmetric(entries: Float[Array, "*N 6"]) -> Float[Array, "*N 3 3"]:
    """Arrange xx, yy, zz, xy, xz, yz as symmetric matrices."""
    order = jnp.array([0, 3, 4, 3, 1, 5, 4, 5, 2])
    return entries[..., order].reshape(*entries.shape[:-1], 3, 3)


def _slices(sizes: tuple[int, int], total: int) -> tuple[slice, slice, slice]:
    face, hand = sizes
    return slice(0, face), slice(face, face + hand), slice(face + hand, total)
