"""Polish an avatar on its photo through the splatter."""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax
import pallas_splat
from jaxtyping import Array, Bool, Float

from jaxavatar.body import PARENTS, local_transforms, skin, skinning_transforms
from jaxavatar.structs import Avatar

_CHUNK = 10  # steps per compiled call: often enough for a progress bar
_SHIFT_LIMIT = 0.004  # metres a Gaussian may move from where the surface put it
_GROWTH_LIMIT = 0.35  # logarithm of how much a Gaussian may grow or shrink


_COLOR_LIMIT = 0.25


@flax.struct.dataclass
class Polish:
    """What the optimisation may change, all unbounded and zero at the start.

    Attributes:
        shift: of the centres, squashed to `_SHIFT_LIMIT` metres.
        growth: of the scales, squashed to `_GROWTH_LIMIT` in the logarithm.
        opacity: added to the logit.
        color: of the colour, squashed to `_COLOR_LIMIT`.
    """

    shift: Float[Array, "N 3"]
    growth: Float[Array, "N 3"]
    opacity: Float[Array, " N"]
    color: Float[Array, "N 3"]


@flax.struct.dataclass
class Target:
    """The photo at the size of the optimisation.

    Attributes:
        photo: [0, 1].
        matte: [0, 1].
        K: intrinsics for this size.
        face: canonical displacement that gives every Gaussian the photo's face.
        seen: which Gaussians stand for pixels of the photo.
    """

    photo: Float[Array, "H W 3"]
    matte: Float[Array, "H W"]
    K: Float[Array, "3 3"]
    face: Float[Array, "N 3"]
    seen: Bool[Array, " N"]


_RATES = {"shift": 0.02, "growth": 0.02, "opacity": 0.03, "color": 0.04}


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast to optimise.

    Attributes:
        rate: multiplies the rates of all changes.
        momentum: of Adam.
    """

    rate: float = 1.0
    momentum: float = 0.9


STEADY = Pace()
QUICK = Pace(rate=4.0, momentum=0.8)
"""As good in a third of the steps, from a start that is not far off."""


def optimise(
    avatar: Avatar,
    target: Target,
    steps: int,
    progress: Callable[[int, int, dict[str, float]], None],
    pace: Pace = STEADY,
) -> Avatar:
    """Fit colours, scales, opacities and small shifts to the photo.

    The loss is L1 + mean square inside the matte over alternating black and white backgrounds,
    so that opacity must follow the matte. Everything stays close to where it was placed: a
    Gaussian that wandered to please the front view would fly off when the head turns.

    Args:
        avatar: as assembled.
        target: the photo.
        steps: rounded up to a multiple of ten.
        progress: called with (steps done, steps, {"psnr": decibels inside the matte}).
        pace: how fast.

    Returns:
        The avatar with polished Gaussians.
    """
    polish, state = _start(avatar, pace)
    total = -(-steps // _CHUNK) * _CHUNK
    for done in range(0, total, _CHUNK):
        polish, state, psnr = _run(avatar, target, polish, state, done / max(total, 1), pace)
        progress(done + _CHUNK, total, {"psnr": float(psnr)})
    return apply_polish(avatar, target, polish)


@jax.jit
def apply_polish(avatar: Avatar, target: Target, polish: Polish) -> Avatar:
    """Return the avatar with bounded changes applied.

    Colours change only where the photo shows them: what shimmers through from below would end in
    random hues. Padding stays invisible.
    """
    logit = jnp.log(avatar.opacities + 1e-6) - jnp.log1p(1e-6 - avatar.opacities)
    return dataclasses.replace(
        avatar,
        means=avatar.means + _SHIFT_LIMIT * jnp.tanh(polish.shift),
        scales=avatar.scales * jnp.exp(_GROWTH_LIMIT * jnp.tanh(polish.growth)),
        opacities=jnp.where(
            avatar.opacities > 0, jax.nn.sigmoid(logit + polish.opacity), avatar.opacities
        ),
        colors=jnp.clip(
            avatar.colors + _COLOR_LIMIT * target.seen[:, None] * jnp.tanh(polish.color), 0.0, 1.0
        ),
    )


def render_photo(
    avatar: Avatar, target: Target, background: Float[Array, " 3"]
) -> Float[Array, "H W 3"]:
    """Render an avatar as its photo shows it: pose, face and camera."""
    local = local_transforms(avatar.rest.rotations, avatar.rest.translation)
    transforms = skinning_transforms(avatar.joints, local, PARENTS)
    means, linear = skin(avatar.means + target.face, avatar.weights, transforms)
    gaussians = pallas_splat.Gaussians(
        means=means,
        quats=avatar.quats,
        scales=avatar.scales,
        opacities=avatar.opacities,
        colors=avatar.colors,
        linear=linear,
    )
    height, width = target.matte.shape
    camera = pallas_splat.Camera(viewmat=jnp.eye(4), K=target.K, width=width, height=height)
    return pallas_splat.render(gaussians, camera, background=background).image


def photo_loss(
    avatar: Avatar, target: Target, background: Float[Array, " 3"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return L1 + 4 times the mean square to the photo over a background; PSNR inside the matte."""
    image = render_photo(avatar, target, background)
    wanted = target.photo * target.matte[..., None] + background * (1 - target.matte[..., None])
    difference = image - wanted
    value = jnp.mean(jnp.abs(difference)) + 4.0 * jnp.mean(difference**2)
    return value, psnr_inside(image, target)


def psnr_inside(image: Float[Array, "H W 3"], target: Target) -> Float[Array, ""]:
    """Return the peak signal-to-noise ratio in decibels where the matte is above 0.9."""
    inside = target.matte > 0.9
    error = (((image - target.photo) ** 2).mean(-1) * inside).sum() / inside.sum()
    return -10.0 * jnp.log10(error)


def _optimiser(pace: Pace) -> optax.GradientTransformation:
    # The floor keeps the tiny gradients of hidden Gaussians from being scaled up to full steps.
    return optax.scale_by_adam(b1=pace.momentum, b2=0.99, eps=3e-7)


@functools.partial(jax.jit, static_argnames="pace")
def _start(avatar: Avatar, pace: Pace) -> tuple[Polish, optax.OptState]:
    polish = Polish(
        shift=jnp.zeros_like(avatar.means),
        growth=jnp.zeros_like(avatar.scales),
        opacity=jnp.zeros_like(avatar.opacities),
        color=jnp.zeros_like(avatar.colors),
    )
    return polish, _optimiser(pace).init(polish)  # pyright: ignore[reportArgumentType]


@functools.partial(jax.jit, static_argnames="pace", donate_argnums=(2, 3))
def _run(
    avatar: Avatar, target: Target, polish: Polish, state, start: Float[Array, ""], pace: Pace
):
    """Take `_CHUNK` steps; the rate falls along a cosine over the whole run."""

    def loss(polish: Polish, background: Array):
        value, psnr = photo_loss(apply_polish(avatar, target, polish), target, background)
        held = 1e-3 * (
            jnp.mean(jnp.tanh(polish.shift) ** 2) + jnp.mean(jnp.tanh(polish.growth) ** 2)
        )
        return value + held, psnr

    def step(carry, i):
        polish, state = carry
        background = jnp.full(3, i % 2, jnp.float32)
        (_, psnr), grads = jax.value_and_grad(loss, has_aux=True)(polish, background)
        updates, state = _optimiser(pace).update(grads, state)
        decay = 0.5 * (1.0 + jnp.cos(jnp.pi * start)) + 0.05
        polish = Polish(
            **{
                name: getattr(polish, name) - pace.rate * rate * decay * getattr(updates, name)
                for name, rate in _RATES.items()
            }
        )
        return (polish, state), psnr

    (polish, state), psnrs = jax.lax.scan(step, (polish, state), jnp.arange(_CHUNK))
    return polish, state, psnrs[-1]
