"""Names and shapes of a configuration's parameters, without making any."""

import functools
import types
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from jaxavatar.reconstruction.transformer.config import TransformerConfig
from jaxavatar.reconstruction.transformer.model import Crops, Reconstructor
from jaxavatar.reconstruction.transformer.placed import PhotoPoints


@functools.lru_cache(maxsize=8)  # tracing takes a second
def parameter_shapes(config: TransformerConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter by its path, joined by "/", encoders included."""
    side = config.head.size
    crops = Crops(
        body=jnp.zeros((1, *config.body.size, 3)),
        head=jnp.zeros((1, side, side, 3)),
        hands=jnp.zeros((1, 2, *config.hand.size, 3)),
        hands_seen=jnp.zeros((1, 2), bool),
    )
    # No shape depends on the number of points; few are traced faster.
    points, weights = jnp.zeros((1, 8, 3)), jnp.zeros((8, 55))
    three = jnp.zeros((1, 8, 3))
    photo = PhotoPoints(
        points=three,
        colors=three,
        seen=jnp.zeros((1, 8), bool),
        shifts=three,
        rays=three,
        reach=jnp.zeros((1, 8)),
        nearest=jnp.zeros((1, 8, 3), int),
        shares=three,
    )

    def initial(key: jax.Array) -> Mapping[str, Any]:
        model = Reconstructor(config)
        if config.placed:
            made = model.init(key, points, crops, photo, weights[None], method="change_placed")
        else:
            made = model.init(key, points, crops, template_weights=weights)
        return made["params"]

    tree = jax.eval_shape(initial, jax.random.key(0))
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(tree, sep="/")
    return types.MappingProxyType({path: leaf.shape for path, leaf in flat.items()})
