"""Regress an avatar from a photo with the transformer (paper, sec. 3.1).

Models of placed points (`tiny`, which ships with the package) change the Gaussians that were placed
on photo and body. Models like LHM's make one Gaussian per query point; they know only the photo's
crops, and the fitted body lends its shape, its pose and its face.
"""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxavatar.body import PARENTS, inverse_skin, load_template, skin
from jaxavatar.errors import InputError
from jaxavatar.reconstruction.crops import make_crops
from jaxavatar.reconstruction.observe import observe
from jaxavatar.reconstruction.place import by_region
from jaxavatar.reconstruction.query import template_queries
from jaxavatar.reconstruction.start import Start
from jaxavatar.reconstruction.transformer import (
    CanonicalGaussians,
    Changes,
    Crops,
    PhotoPoints,
    Reconstructor,
    TransformerConfig,
    apply_changes,
)
from jaxavatar.reconstruction.transformer.animate import blend_quaternion, multiply
from jaxavatar.reconstruction.transformer.canonical import to_rest
from jaxavatar.reconstruction.transformer.params_file import load_params
from jaxavatar.reconstruction.transformer.shapes import parameter_shapes
from jaxavatar.structs import Avatar, Findings

PACKAGED = pathlib.Path(__file__).parent / "data" / "tiny.safetensors"
"""The weights that ship with the package."""


@dataclasses.dataclass(frozen=True)
class Regressor:
    """A transformer with all of its parameters.

    Attributes:
        config: its sizes.
        params: what `Reconstructor.init` returns.
        info: notes of who made the parameters.
    """

    config: TransformerConfig
    params: dict[str, Any]
    info: dict[str, Any]

    @property
    def licences(self) -> tuple[str, ...]:
        """Licences of the released weights that the parameters were imported from."""
        found = [str(origin.get("licence")) for origin in self.info.get("imports", [])]
        return tuple(dict.fromkeys(found))


@flax.struct.dataclass
class Inputs:
    """What the decoder of one photo reads, and what it changes.

    Attributes:
        features: of the query points, the avatar's tokens Q.
        photo: the placed points; None for a model that has none.
        order: which query point each Gaussian is, for a model without placed points.
        avatar: of the Gaussians as they were placed.
        transforms: skinning transforms of the photo's pose.
    """

    features: Float[Array, "1 M d"]
    photo: PhotoPoints | None
    order: Int[Array, " N"] | None
    avatar: Avatar
    transforms: Float[Array, "J 3 4"]


def load_regressor(path: str | os.PathLike[str] = PACKAGED) -> Regressor:
    """Read a transformer's parameters.

    Raises:
        InputError: the file cannot be read, lacks a part of the model, or is of a model that
            predicts spherical harmonics.
    """
    params, config, info = load_params(path)
    if config.sh_degree is not None:
        raise InputError(
            f"{path} predicts spherical harmonics, avatars have RGB; name a file without sh_degree"
        )
    have = {"/".join(names) for names in flax.traverse_util.flatten_dict(params)}
    lacking = sorted({name.split("/")[0] for name in set(parameter_shapes(config)) - have})
    if lacking:
        raise InputError(
            f"{path} lacks the {', '.join(lacking)}; add them with"
            f" `jaxavatar weights import ... --into {path}`"
        )
    return Regressor(config, {"params": params}, info)


def read_photo(
    regressor: Regressor, begun: Start, image: Float[np.ndarray, "H W 3"], findings: Findings
) -> Inputs:
    """Run encoders and transformer on a photo.

    Args:
        regressor: the transformer.
        begun: the photo taken apart; for a model without placed points, with Gaussians at its
            query points (`start.start`).
        image: the photo, [0, 1].
        findings: from `perception.perceive` on it.
    """
    config = regressor.config
    queries = template_queries(config.points)
    crops = make_crops(config, image, findings)
    photo, order = None, None
    if config.placed:
        seen = observe(begun.model, begun.surface, begun.placement, begun.avatar, queries)
        photo = jax.tree.map(lambda leaf: np.asarray(leaf)[None], seen)
    else:
        order = jnp.asarray(by_region(begun.model, queries.corners))
    points = jnp.asarray(queries.points[None], jnp.float32)
    features = _features(config, regressor.params, points, crops, photo)
    return Inputs(features, photo, order, begun.avatar, begun.surface.transforms)


def decode(config: TransformerConfig, params: dict[str, Any], inputs: Inputs) -> Avatar:
    """Decode the avatar: the part D_G of the model; differentiable in the parameters."""
    model = Reconstructor(config)
    weights = inputs.avatar.weights
    if config.placed:
        arguments = inputs.features, inputs.photo, weights[None]
        changes: Any = model.apply(params, *arguments, method="change")
        return _changed(inputs, jax.tree.map(lambda leaf: leaf[0], changes))
    points = jnp.asarray(template_queries(config.points).points, jnp.float32)[None]
    assert inputs.order is not None
    asked = jnp.zeros_like(weights).at[inputs.order].set(weights)
    made: Any = model.apply(
        params, points, inputs.features, template_weights=asked, method="decode"
    )
    return _canonical(inputs, jax.tree.map(lambda leaf: leaf[0][inputs.order], made))


@functools.partial(jax.jit, static_argnums=0)
def _features(
    config: TransformerConfig,
    params: dict[str, Any],
    points: Float[Array, "1 M 3"],
    crops: Crops,
    photo: PhotoPoints | None,
) -> Float[Array, "1 M d"]:
    model = Reconstructor(config)
    tokens = model.apply(params, crops, method="encode")
    features: Any = model.apply(params, points, tokens, photo, method="features")
    return features


def _changed(inputs: Inputs, changes: Changes) -> Avatar:
    """Change placed Gaussians; new weights leave them where they are in the photo's pose."""
    avatar = inputs.avatar
    means, scales, opacities = apply_changes(avatar.means, avatar.scales, avatar.opacities, changes)
    assert changes.weights is not None
    posed, _ = skin(means, avatar.weights, inputs.transforms)
    return dataclasses.replace(
        avatar,
        means=inverse_skin(posed, changes.weights, inputs.transforms),
        scales=scales,
        opacities=opacities,
        colors=changes.colors,
        weights=changes.weights,
    )


def _canonical(inputs: Inputs, made: CanonicalGaussians) -> Avatar:
    """Carry Gaussians from LHM's canonical pose and neutral shape to the avatar's.

    The pose is undone as LHM does it; then the person's shape and resting face move the points.
    """
    avatar, model = inputs.avatar, load_template()
    assert made.weights is not None
    means, back = skin(made.means, made.weights, to_rest(model.joints, PARENTS))
    return dataclasses.replace(
        avatar,
        means=means + avatar.means - avatar.template_points,
        quats=multiply(blend_quaternion(back), made.quats),
        scales=made.scales,
        opacities=made.opacities,
        colors=made.colors,
        weights=made.weights,
    )
