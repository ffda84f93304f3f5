"""Gaussians placed on a photo: what the query points read of them, and how they are decoded.

Where the photo sees the person, a Gaussian stands on each of its pixels; elsewhere Gaussians stand
on the fitted template (`reconstruction.place`). The model need not invent what the photo shows:
query points read the colours and the depth of the placed points around them (pixel-aligned
features, Saito et al., 2019; the paper's "projected query tokens"), and the decoder changes the
placed Gaussians. There may be any number of them: each reads the features of the three nearest
query points. A photo fixes every point but for its distance, so the decoder moves points along the
photo's rays alone, and what the photo does not see only away from the camera.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_GROWTH = 0.7  # of the logarithm of the sizes
_OPACITY = 3.0  # of the logit
_SEEN_COLOR = 0.1
_SHIFT_UNIT = 50.0  # per metre: centimetres off the template are of order one
_TRUST = 2.0  # logit of how much a new decoder trusts the painted colour
_STAY = -3.0  # logit of how far a new decoder moves unseen points


@flax.struct.dataclass
class PhotoPoints:
    """What a photo says about placed points.

    Attributes:
        points: where they are on the template, in the canonical pose, metres.
        colors: RGB in [0, 1]: the photo's where it sees them, a guess from their surroundings
            elsewhere.
        seen: whether the photo sees them.
        shifts: from the fitted mesh to the point, canonical metres.
        rays: direction from the camera to the point, canonical.
        reach: how far the decoder may move the point along its ray, metres; where it is 0 (teeth,
            tongue, eyes, the lining of the mouth) it changes nothing at all.
        nearest: the three nearest query points.
        shares: their weights, of sum 1.
    """

    points: Float[Array, "*B N 3"]
    colors: Float[Array, "*B N 3"]
    seen: Bool[Array, "*B N"]
    shifts: Float[Array, "*B N 3"]
    rays: Float[Array, "*B N 3"]
    reach: Float[Array, "*B N"]
    nearest: Int[Array, "*B N 3"]
    shares: Float[Array, "*B N 3"]


@flax.struct.dataclass
class Changes:
    """What the decoder changes of placed Gaussians; all zero leaves them as they were placed.

    Attributes:
        shift: of the centre, canonical metres, along the ray and within the point's reach; of
            unseen points away from the camera.
        growth: of the logarithm of the sizes, within 0.7; unseen points do not shrink.
        opacity: added to the logit, within 3.
        colors: the new colours, [0, 1]; within 0.1 of the photo's where it sees the point.
        weights: skinning weights of sum 1; None without a weight decoder.
    """

    shift: Float[Array, "*B N 3"]
    growth: Float[Array, "*B N 3"]
    opacity: Float[Array, "*B N"]
    colors: Float[Array, "*B N 3"]
    weights: Float[Array, "*B N J"] | None


def around_queries(photo: PhotoPoints, count: int) -> Float[Array, "B M 7"]:
    """Return means over the seen points nearest to each of `count` query points.

    Colour (3), the share of seen points (1) and shift (3) in units of 2 cm; zeros where nothing
    is seen.
    """

    def one(photo: PhotoPoints) -> Float[Array, "M 7"]:
        seen = photo.seen.astype(photo.colors.dtype)[:, None]
        values = jnp.concatenate(
            [photo.colors * seen, _SHIFT_UNIT * photo.shifts * seen, seen, jnp.ones_like(seen)], 1
        )
        sums = jax.ops.segment_sum(values, photo.nearest[:, 0], count)
        found, total = sums[:, 6:7], jnp.maximum(sums[:, 7:], 1.0)
        means = sums[:, :6] / jnp.maximum(found, 1.0)
        return jnp.concatenate([means[:, :3], found / total, means[:, 3:]], axis=1)

    return jax.vmap(one)(photo)


def interpolate(features: Float[Array, "B M d"], photo: PhotoPoints) -> Float[Array, "B N d"]:
    """Mix the features of each placed point's nearest query points."""

    def one(features: Array, nearest: Array, shares: Array) -> Array:
        # One neighbour at a time: three at once would take three times the memory.
        a, b, c = (features[nearest[:, k]] * shares[:, k, None] for k in range(3))
        return a + b + c

    return jax.vmap(one)(features, photo.nearest, photo.shares)


class PlacedDecoder(nn.Module):
    """The Gaussian decoder D_G for placed points: a network of two hidden layers per point.

    Attributes:
        width: of the hidden layers.
        dtype: of the matrix products' inputs.
    """

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Float[Array, "B M d"], photo: PhotoPoints) -> Changes:
        """Decode the changes, without skinning weights.

        Args:
            features: of the query points.
            photo: the placed points.
        """
        seen = photo.seen[..., None]
        own = jnp.concatenate(
            [
                photo.points,
                photo.colors,
                _SHIFT_UNIT * photo.shifts,
                seen.astype(features.dtype),
            ],
            axis=-1,
        )
        # Linear, so it may be applied before mixing: there are fewer query points.
        mixed = nn.Dense(self.width, dtype=self.dtype, name="features")(features)
        hidden = interpolate(mixed, photo) + nn.Dense(self.width, dtype=self.dtype, name="own")(own)
        hidden = nn.Dense(self.width, dtype=self.dtype, name="hidden")(nn.silu(hidden))
        raw = nn.Dense(10, kernel_init=nn.initializers.normal(1e-3), name="out")(nn.silu(hidden))
        near, away, growth, opacity, trust, color = jnp.split(raw, [1, 2, 5, 6, 7], axis=-1)
        way = jnp.where(seen, jnp.tanh(near), nn.sigmoid(away + _STAY))
        trust = nn.sigmoid(trust + _TRUST)
        guessed = trust * photo.colors + (1 - trust) * nn.sigmoid(color)
        known = jnp.clip(photo.colors + _SEEN_COLOR * jnp.tanh(color), 0.0, 1.0)
        # How many unseen points there are differs from photo to photo: they must not leave gaps.
        grown = jnp.where(seen, jnp.tanh(growth), jnp.maximum(jnp.tanh(growth), 0.0))
        free = photo.reach[..., None] > 0
        return Changes(
            shift=photo.reach[..., None] * way * photo.rays,
            growth=jnp.where(free, _GROWTH * grown, 0.0),
            opacity=jnp.where(free, _OPACITY * jnp.tanh(opacity), 0.0)[..., 0],
            colors=jnp.where(free, jnp.where(seen, known, guessed), photo.colors),
            weights=None,
        )


def apply_changes(
    means: Float[Array, "*B N 3"],
    scales: Float[Array, "*B N 3"],
    opacities: Float[Array, "*B N"],
    changes: Changes,
) -> tuple[Float[Array, "*B N 3"], Float[Array, "*B N 3"], Float[Array, "*B N"]]:
    """Return the changed centres, sizes and opacities; what is invisible stays so."""
    logit = jnp.log(opacities + 1e-6) - jnp.log1p(1e-6 - opacities)
    changed = jax.nn.sigmoid(logit + changes.opacity)
    return (
        means + changes.shift,
        scales * jnp.exp(changes.growth),
        jnp.where(opacities > 0, changed, opacities),
    )
