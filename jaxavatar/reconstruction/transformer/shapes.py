"""Names and shapes of a configuration's parameters, without making any."""

import functools
import types
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct

from jaxavatar.reconstruction.transformer.config import TransformerConfig
from jaxavatar.reconstruction.transformer.model import Crops, Reconstructor
from jaxavatar.reconstruction.transformer.placed import PhotoPoints


@functools.lru_cache(maxsize=8)  # tracing takes half a second
def parameter_shapes(config: TransformerConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter by its path, joined by "/", encoders included."""
    side = config.head.size

    def like(*shape: int, dtype: Any = jnp.float32) -> Any:
        return ShapeDtypeStruct(shape, dtype)

    crops = Crops(
        body=like(1, *config.body.size, 3),
        head=like(1, side, side, 3),
        hands=like(1, 2, *config.hand.size, 3),
        hands_seen=like(1, 2, dtype=bool),
    )
    # No shape depends on the number of points; few are traced faster.
    three, weights = like(1, 8, 3), like(8, 55)
    photo = PhotoPoints(
        points=three,
        colors=three,
        seen=like(1, 8, dtype=bool),
        shifts=three,
        rays=three,
        reach=like(1, 8),
        nearest=like(1, 8, 3, dtype=jnp.int32),
        shares=three,
    )

    def initial(points: Any, crops: Crops, photo: PhotoPoints, weights: Any) -> Mapping[str, Any]:
        model, key = Reconstructor(config), jax.random.key(0)
        if config.placed:
            made = model.init(key, points, crops, photo, weights[None], method="change_placed")
        else:
            made = model.init(key, points, crops, template_weights=weights)
        return made["params"]

    tree = jax.eval_shape(initial, three, crops, photo, weights)
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(tree, sep="/")
    return types.MappingProxyType({path: leaf.shape for path, leaf in flat.items()})
