"""The blocks of the Multimodal Body-Head Transformer (LHM; blocks of Stable Diffusion 3).

Points and image tokens are two streams with weights of their own; they attend jointly, and a
global code modulates both. In a body-head block the head's points first meet the tokens of the
head crop, then all points meet the tokens of the photo.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.reconstruction.transformer.attention import attend
from jaxavatar.reconstruction.transformer.norms import (
    LayerNorm,
    Modulation,
    RMSNorm,
    modulate,
    normalise,
)

Tokens = Float[Array, "B n d"]


class FeedForward(nn.Module):
    """Two layers, the first four times as wide, with GELU (by tanh) between them."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Apply the network to each token."""
        hidden = nn.Dense(4 * x.shape[-1], dtype=self.dtype, name="up")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(nn.gelu(hidden))


class JointAttention(nn.Module):
    """Attention of two streams over the keys and values of both, and of the hands.

    Hand tokens, when there are any, are further keys and values that no query comes from
    (paper, sec. 3.1: K = [K_fb || K_hand], V = [V_fb || V_hand]). Their values begin at zero, so
    that a model trained without them changes little when they are added.

    Attributes:
        heads: number of heads.
        both: whether what the context takes is wanted too.
        dtype: of the matrix products' inputs.
    """

    heads: int
    both: bool
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Tokens, context: Tokens, hands: Tokens | None = None
    ) -> tuple[Tokens, Tokens | None]:
        """Return what points and context (None unless wanted) take from everything."""
        width = x.shape[-1]

        def project(source: Tokens, name: str, **options: Any) -> Float[Array, "B n h w"]:
            dense = nn.Dense(width, dtype=self.dtype, name=name, **options)
            return dense(source).reshape(*source.shape[:2], self.heads, -1)

        queries, keys, values = [], [], []
        for source, prefix in ((x, ""), (context, "context_")):
            queries.append(RMSNorm(name=f"{prefix}query_norm")(project(source, f"{prefix}query")))
            keys.append(RMSNorm(name=f"{prefix}key_norm")(project(source, f"{prefix}key")))
            values.append(project(source, f"{prefix}value"))
        if hands is not None:
            keys.append(RMSNorm(name="hand_key_norm")(project(hands, "hand_key")))
            values.append(project(hands, "hand_value", kernel_init=nn.initializers.zeros))
        attended = attend(
            jnp.concatenate(queries, axis=1),
            jnp.concatenate(keys, axis=1),
            jnp.concatenate(values, axis=1),
        )
        attended = attended.reshape(x.shape[0], -1, width)
        mine = nn.Dense(width, dtype=self.dtype, name="out")(attended[:, : x.shape[1]])
        if not self.both:
            return mine, None
        theirs = nn.Dense(width, dtype=self.dtype, name="context_out")
        return mine, theirs(attended[:, x.shape[1] :])


class JointBlock(nn.Module):
    """One SD3-style block; the last one of a model leaves the context alone.

    The feed-forward output of the context is added twice, gated and not: the released code does
    so, and its checkpoints were trained with it.
    """

    heads: int
    last: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        context: Tokens,
        code: Float[Array, "B d"],
        hands: Tokens | None = None,
    ) -> tuple[Tokens, Tokens]:
        """Return the next points and context (the last block leaves it alone).

        Args:
            x: point tokens.
            context: image tokens.
            code: what modulates the block.
            hands: hand tokens, when the block sees any.
        """
        shift, scale, gate, late_shift, late_scale, late_gate = Modulation(
            6, self.dtype, name="modulation"
        )(code)
        parts = 2 if self.last else 6
        vectors = Modulation(parts, self.dtype, name="context_modulation")(code)
        # The last block's two come in the other order.
        context_shift, context_scale = vectors[1::-1] if self.last else vectors[:2]
        mine, theirs = JointAttention(self.heads, not self.last, self.dtype, name="attention")(
            modulate(normalise(x), shift, scale),
            modulate(normalise(context), context_shift, context_scale),
            hands,
        )
        x = _add(x, gate, mine)
        late = modulate(normalise(x), late_shift, late_scale)
        x = _add(x, late_gate, FeedForward(self.dtype, name="feed_forward")(late))
        if theirs is None:
            return x, context
        gate, shift, scale, late_gate = vectors[2:]
        context = _add(context, gate, theirs)
        late = modulate(normalise(context), shift, scale)
        feed_forward = FeedForward(self.dtype, name="context_feed_forward")
        return x, _add(context, 1 + late_gate, feed_forward(late))


def _add(x: Tokens, gate: Float[Array, "B d"], change: Tokens) -> Tokens:
    """Keep the residual stream in its own, better type."""
    return x + (gate[:, None] * change).astype(x.dtype)


class BodyHeadBlock(nn.Module):
    """A block for the head's points and one for all points.

    Attributes:
        heads: attention heads.
        body_tokens: how many of the context tokens, which come first, show the whole body.
        last: whether this is the model's last block.
        dtype: of the matrix products' inputs.
    """

    heads: int
    body_tokens: int
    last: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        context: Tokens,
        code: Float[Array, "B two_d"],
        hands: Tokens | None = None,
    ) -> tuple[Tokens, Tokens]:
        """Return the next points and context (the last block leaves it alone).

        Args:
            x: point tokens; the last quarter (of int(0.75 n) on) belongs to the head.
            context: tokens of the photo, then those of the head crop.
            code: modulation for the body's block, then for the head's.
            hands: hand tokens; the block of all points, hands among them, attends to them.
        """
        split = int(0.75 * x.shape[1])
        body_code, head_code = jnp.split(code, 2, axis=-1)
        body, head = jnp.split(context, [self.body_tokens], axis=1)
        options = {"heads": self.heads, "last": self.last, "dtype": self.dtype}
        head_x, head = JointBlock(**options, name="head")(x[:, split:], head, head_code)
        x = jnp.concatenate([x[:, :split], head_x], axis=1)
        x, body = JointBlock(**options, name="body")(x, body, body_code, hands)
        return x, jnp.concatenate([body, head], axis=1)


class BodyHeadTransformer(nn.Module):
    """The stack of body-head blocks between one projection and one normalisation.

    Attributes:
        layers: number of blocks.
        heads: attention heads.
        body_tokens: see `BodyHeadBlock`.
        remat: recompute blocks in the backward pass.
        dtype: of the matrix products' inputs.
    """

    layers: int
    heads: int
    body_tokens: int
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        context: Float[Array, "B m c"],
        code: Float[Array, "B two_d"],
        hands: Tokens | None = None,
    ) -> Tokens:
        """Return the points' features; arguments as for `BodyHeadBlock`."""
        block = nn.remat(BodyHeadBlock) if self.remat else BodyHeadBlock
        projected = nn.Dense(x.shape[-1], dtype=self.dtype, name="context_in")(context)
        stream = projected.astype(x.dtype)
        for layer in range(self.layers):
            last = layer == self.layers - 1
            x, stream = block(self.heads, self.body_tokens, last, self.dtype, name=f"block{layer}")(
                x, stream, code, hands
            )
        return LayerNorm(name="norm")(x)
