"""Random parameters, and the names and shapes of a configuration without making any."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from jaxavatar.teachers.wan.config import AutoencoderConfig, TransformerConfig
from jaxavatar.teachers.wan.decoder import WanDecoder
from jaxavatar.teachers.wan.encoder import WanEncoder
from jaxavatar.teachers.wan.transformer import WanTransformer

Params = Any


def init_transformer(config: TransformerConfig, key: jax.Array) -> Params:
    """Make random parameters of `WanTransformer`."""
    side = config.patch
    audio = config.audio and jnp.zeros((1, 1, config.audio.features))
    return WanTransformer(config).init(
        key,
        jnp.zeros((1, 1, side, side, config.in_channels)),
        jnp.zeros(1),
        jnp.zeros((1, 1, config.text_width)),
        audio,
    )["params"]


def init_autoencoder(config: AutoencoderConfig, key: jax.Array) -> dict[str, Params]:
    """Make random parameters of `WanEncoder` ("encoder") and `WanDecoder` ("decoder")."""
    pixels = jnp.zeros((1, 1, config.space, config.space, 3))
    keys = jax.random.split(key)
    return {
        "encoder": WanEncoder(config).init(keys[0], pixels)["params"],
        "decoder": WanDecoder(config).init(keys[1], jnp.zeros((1, 1, 1, 1, config.latents)))[
            "params"
        ],
    }


def shapes_of(init: Callable[[jax.Array], Params]) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter that `init(key)` would make, by its path ("a/b")."""
    tree = jax.eval_shape(init, jax.random.key(0))
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}
