"""Names and shapes of a configuration's parameters, without making any."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from jaxavatar.reconstruction.transformer.config import TransformerConfig
from jaxavatar.reconstruction.transformer.model import Crops, Reconstructor


def parameter_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
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

    def initial(key: jax.Array) -> Mapping[str, Any]:
        model = Reconstructor(config)
        return model.init(key, points, crops, template_weights=weights)["params"]

    tree = jax.eval_shape(initial, jax.random.key(0))
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}
