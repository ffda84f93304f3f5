"""Vision transformers (Dosovitskiy et al., 2021): the body and hand encoders, and their block."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.reconstruction.transformer.attention import attend
from jaxavatar.reconstruction.transformer.config import VitConfig
from jaxavatar.reconstruction.transformer.norms import LayerNorm


class Block(nn.Module):
    """Self-attention and feed-forward (exact GELU), pre-norm.

    Attributes:
        heads: attention heads.
        layer_scale: multiply each branch by learned factors, as DINOv2 does.
        dtype: of the matrix products' inputs.
    """

    heads: int
    layer_scale: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B n d"]) -> Float[Array, "B n d"]:
        """Return the next residual stream."""
        width = x.shape[-1]

        def branch(change: Array, name: str) -> Array:
            change = change.astype(x.dtype)
            if self.layer_scale:
                change = change * self.param(name, nn.initializers.constant(1e-5), (width,))
            return change

        normed = LayerNorm(name="attention_norm")(x)
        joined = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(normed)
        joined = joined.reshape(*x.shape[:2], 3, self.heads, -1)
        attended = attend(joined[:, :, 0], joined[:, :, 1], joined[:, :, 2]).reshape(x.shape)
        out = nn.Dense(width, dtype=self.dtype, name="out")(attended)
        x = x + branch(out, "attention_scale")
        hidden = LayerNorm(name="feed_forward_norm")(x)
        hidden = nn.gelu(
            nn.Dense(4 * width, dtype=self.dtype, name="up")(hidden), approximate=False
        )
        out = nn.Dense(width, dtype=self.dtype, name="down")(hidden)
        return x + branch(out, "feed_forward_scale")


class VisionTransformer(nn.Module):
    """Patches of an image to tokens.

    Attributes:
        config: sizes.
        remat: recompute blocks in the backward pass.
        dtype: of the matrix products' inputs.
    """

    config: VitConfig
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B n d"]:
        """Encode images.

        Args:
            image: RGB in [0, 1] of the configured size.

        Returns:
            A token per patch, row by row.
        """
        config = self.config
        mean, deviation = (jnp.asarray(x, image.dtype) for x in (config.mean, config.deviation))
        tokens = nn.Conv(
            config.width,
            (config.patch, config.patch),
            config.patch,
            config.padding,
            dtype=self.dtype,
            name="patches",
        )((image - mean) / deviation)
        x = tokens.reshape(image.shape[0], -1, config.width).astype(image.dtype)
        small, extra = nn.initializers.normal(0.02), int(config.class_token)
        if config.class_token:
            first = self.param("class_token", small, (config.width,))
            first = jnp.broadcast_to(first, (x.shape[0], 1, config.width)).astype(x.dtype)
            x = jnp.concatenate([first, x], axis=1)
        x = x + self.param("positions", small, (extra + config.tokens, config.width))
        block = nn.remat(Block) if self.remat else Block
        for layer in range(config.depth):
            x = block(config.heads, dtype=self.dtype, name=f"block{layer}")(x)
        return LayerNorm(name="norm")(x)[:, extra:]
