"""The Gaussian decoder and the weight decoder: features of points to an avatar's Gaussians."""

import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxavatar.reconstruction.transformer.placed import PhotoPoints, interpolate

REACH = 1.0  # metres: the range of an offset, half of it to each side
FINAL_CLIP = 0.05
"""Bound of a Gaussian's size after training, metres (`scale_clip` at the end)."""
_UPPER_BODY_CLIP = 0.02
_CLIP_START, _CLIP_END, _CLIP_FIRST = 100, 3000, 0.01
_SMALLEST_WEIGHT = 1e-6


@flax.struct.dataclass
class CanonicalGaussians:
    """Gaussians in the canonical pose.

    Attributes:
        means: metres.
        offsets: what was added to the query points, within 0.5 m.
        scales: standard deviations, metres.
        quats: w, x, y, z, of length 1.
        opacities: in [0, 1].
        colors: RGB in [0, 1], or coefficients of spherical harmonics.
        weights: skinning weights of sum 1; None without template weights.
    """

    means: Float[Array, "B N 3"]
    offsets: Float[Array, "B N 3"]
    scales: Float[Array, "B N 3"]
    quats: Float[Array, "B N 4"]
    opacities: Float[Array, "B N"]
    colors: Float[Array, "B N 3"] | Float[Array, "B N K 3"]
    weights: Float[Array, "B N J"] | None


def scale_clip(step: Int[Array, ""] | int) -> Float[Array, ""]:
    """Return the bound of sizes at a step of training, metres.

    It is 0.01 until step 100, then grows by the same amount every step to 0.05 at step 3000.
    """
    done = jnp.clip((jnp.asarray(step) - _CLIP_START) / (_CLIP_END - _CLIP_START), 0.0, 1.0)
    return _CLIP_FIRST + (FINAL_CLIP - _CLIP_FIRST) * done


@jax.custom_vjp
def bounded_exp(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return exp(x), with the derivative exp(min(x, 15)), so that it cannot overflow."""
    return jnp.exp(x)


def _exp_forward(x: Array) -> tuple[Array, Array]:
    return jnp.exp(x), x


def _exp_backward(x: Array, gradient: Array) -> tuple[Array]:
    return (gradient * jnp.exp(jnp.minimum(x, 15.0)),)


bounded_exp.defvjp(_exp_forward, _exp_backward)


class DecoderNetwork(nn.Module):
    """Two hidden layers with SiLU; neither residual nor output activation."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, features: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
        """Apply the network to each point."""
        hidden = features
        for layer in range(2):
            hidden = nn.silu(nn.Dense(self.width, dtype=self.dtype, name=f"hidden{layer}")(hidden))
        return nn.Dense(features.shape[-1], dtype=self.dtype, name="out")(hidden)


class GaussianLayer(nn.Module):
    """A linear layer per attribute, and the attribute's range.

    A new layer makes Gaussians of exp(-5) metres (6.7 mm) at their query points, unrotated, with
    opacity 0.1. All is computed in float32 or better.

    Attributes:
        sh_degree: None predicts RGB.
    """

    sh_degree: int | None = None

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "B N d"],
        points: Float[Array, "B N 3"],
        clip: Float[Array, ""] | float = FINAL_CLIP,
        upper_body: Bool[Array, " N"] | None = None,
    ) -> CanonicalGaussians:
        """Decode Gaussians.

        Args:
            features: of the points.
            points: query points in the canonical pose, metres.
            clip: bound of the sizes, metres; see `scale_clip`.
            upper_body: where the bound is 0.02 m at most, so that arms and hands stay sharp.
        """
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))

        def attribute(name: str, bias: tuple[float, ...]) -> Float[Array, "B N k"]:
            def given(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Array:
                return jnp.asarray(bias, dtype)

            dense = nn.Dense(
                len(bias), kernel_init=nn.initializers.zeros, bias_init=given, name=name
            )
            return dense(features)

        if self.sh_degree is None:
            colors = nn.sigmoid(nn.Dense(3, name="color")(features))
        else:
            terms = (self.sh_degree + 1) ** 2
            colors = attribute("color", (0.0,) * (3 * terms))
            colors = colors.reshape(*features.shape[:-1], terms, 3)
        scales = jnp.clip(bounded_exp(attribute("scale", (-5.0,) * 3)), 0.0, clip)
        if upper_body is not None:
            bound = jnp.where(upper_body, _UPPER_BODY_CLIP, jnp.inf)[:, None]
            scales = jnp.minimum(scales, bound)
        offsets = (nn.sigmoid(attribute("offset", (0.0,) * 3)) - 0.5) * REACH
        rotation = attribute("rotation", (1.0, 0.0, 0.0, 0.0))
        length = jnp.linalg.norm(rotation, axis=-1, keepdims=True)
        opacity = nn.sigmoid(attribute("opacity", (math.log(0.1 / 0.9),)))
        return CanonicalGaussians(
            means=points + offsets,
            offsets=offsets,
            scales=scales,
            quats=rotation / jnp.maximum(length, 1e-12),
            opacities=opacity[..., 0],
            colors=colors,
            weights=None,
        )


class WeightDecoder(nn.Module):
    """Skinning weights of the Gaussians: softmax(log(template weight) + residual(features)).

    The paper names a weight decoder (sec. 4.2) without defining it; this is our reading. Its last
    layer begins at zero, so that a new one returns the template's weights.
    """

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "B M d"],
        template: Float[Array, "#B N J"],
        photo: PhotoPoints | None = None,
    ) -> Float[Array, "B N J"]:
        """Return weights of sum 1.

        Args:
            features: of the query points.
            template: the template's weights at the Gaussians, of sum 1.
            photo: the Gaussians, where they are placed points; the residual of the query points
                is interpolated to them. None: they are the query points, M = N.
        """
        hidden = nn.silu(nn.Dense(self.width, dtype=self.dtype, name="hidden")(features))
        last = nn.Dense(template.shape[-1], kernel_init=nn.initializers.zeros, name="out")
        residual = last(hidden.astype(template.dtype))
        if photo is not None:
            residual = interpolate(residual, photo)
        return nn.softmax(jnp.log(template + _SMALLEST_WEIGHT) + residual)
