"""DINOv2 with registers (Oquab et al., 2023; Darcet et al., 2024), and the fusion of its depths."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.reconstruction.transformer.config import DinoConfig
from jaxavatar.reconstruction.transformer.norms import LayerNorm
from jaxavatar.reconstruction.transformer.resample import resize_grid
from jaxavatar.reconstruction.transformer.vit import Block


class DinoV2(nn.Module):
    """The encoder. Its tokens are: class, registers, patches row by row.

    Attributes:
        config: sizes.
        remat: recompute blocks in the backward pass.
        dtype: of the matrix products' inputs.
    """

    config: DinoConfig
    remat: bool = False
    dtype: Any = None

    def setup(self) -> None:
        """Create the layers."""
        config = self.config
        small = nn.initializers.normal(0.02)
        patch = (config.patch, config.patch)
        self.patches = nn.Conv(config.width, patch, config.patch, "VALID", dtype=self.dtype)
        self.class_token = self.param("class_token", small, (config.width,))
        self.register_tokens = self.param("registers", small, (config.registers, config.width))
        places = (1 + config.grid**2, config.width)
        self.positions = self.param("positions", small, places)
        block = nn.remat(Block) if self.remat else Block
        self.block = [block(config.heads, True, self.dtype) for _ in range(config.depth)]
        self.norm = LayerNorm()

    def places(self, rows: int, columns: int) -> Float[Array, "n d"]:
        """Return the position of the class token and of rows x columns patches."""
        side = self.config.grid
        grid = self.positions[1:].reshape(side, side, -1)
        if (rows, columns) != (side, side):
            grid = resize_grid(grid, rows, columns)
        return jnp.concatenate([self.positions[:1], grid.reshape(rows * columns, -1)])

    def embed(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B n d"]:
        """Return what the first block reads; registers have no position."""
        patches = self.patches(image).astype(image.dtype)
        batch, rows, columns, width = patches.shape
        first = jnp.broadcast_to(self.class_token, (batch, 1, width))
        x = jnp.concatenate([first, patches.reshape(batch, -1, width)], axis=1)
        x = x + self.places(rows, columns)
        registers = jnp.broadcast_to(self.register_tokens, (batch, self.config.registers, width))
        return jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)

    def __call__(self, image: Float[Array, "B H W 3"]) -> tuple[Float[Array, "B n d"], ...]:
        """Encode images.

        Args:
            image: RGB in [0, 1], as it is; sides are multiples of the patch.

        Returns:
            The outputs of the taken blocks, each through the final normalisation.
        """
        x = self.embed(image)
        taken = []
        for layer, block in enumerate(self.block):
            x = block(x)
            if layer in self.config.taken:
                taken.append(self.norm(x))
        return tuple(taken)


class HeadEncoder(nn.Module):
    """DINOv2 on the head crop, the four depths fused token by token into one.

    Attributes:
        config: sizes.
        remat: recompute blocks in the backward pass.
        dtype: of the matrix products' inputs.
    """

    config: DinoConfig
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B n d"]:
        """Return one token per patch; arguments as for `DinoV2`."""
        depths = DinoV2(self.config, self.remat, self.dtype, name="dino")(image)
        patches = [x[:, 1 + self.config.registers :] for x in depths]
        projected = [
            nn.Dense(self.config.width, dtype=self.dtype, name=f"depth{k}")(x)
            for k, x in enumerate(patches)
        ]
        fused = jnp.concatenate(projected, axis=-1)
        return nn.Dense(self.config.width, dtype=self.dtype, name="fuse")(fused)
