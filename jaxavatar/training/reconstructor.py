"""One step of training the transformer on portraits: a pure function of state and batch.

The loss compares what the decoder makes of the placed points with the truth: colours and places of
all that the photo does not show, skinning weights, and a rendering from a turned camera. Some of
what the photo shows is hidden from the model at random, so that real photos teach it as well: what
lies behind the hidden part is known.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pallas_splat
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jaxavatar import losses
from jaxavatar.body import skin
from jaxavatar.data.portrait_samples import VIEW_SIDE, Sample, Truth, expand
from jaxavatar.reconstruction.query import template_queries
from jaxavatar.reconstruction.transformer import (
    Changes,
    Crops,
    PhotoPoints,
    Reconstructor,
    TransformerConfig,
    apply_changes,
)
from jaxavatar.training.sharding import over_clips
from jaxavatar.training.state import TrainState

_HIDING_REACH = 0.08  # metres: hidden points may move as far as unseen ones
_LENDERS = 64


@dataclasses.dataclass(frozen=True)
class ReconstructionLoss:
    """Weights of the terms, and what is hidden.

    Attributes:
        color: L1 of the colours that the photo does not show.
        shift: robust distance of the centres along their rays, centimetres.
        weights: cross entropy of the skinning weights.
        view: L1 of a turned view's picture and alpha.
        held: mean square of growth and opacity changes, which nothing else holds.
        hidden: spheres whose inside is hidden, per photo.
        largest: greatest radius of them, metres.
        tint: greatest change of a colour channel's gain.
    """

    color: float = 1.0
    shift: float = 0.3
    weights: float = 0.05
    view: float = 4.0
    held: float = 0.02
    hidden: int = 2
    largest: float = 0.2
    tint: float = 0.25


def make_reconstructor_step(
    config: TransformerConfig,
    loss: ReconstructionLoss,
    optimiser: optax.GradientTransformation,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, Sample], tuple[TrainState, dict[str, Float[Array, ""]]]]:
    """Build the step `(state, batch) -> (state, metrics)` for `sharding.compile_step`.

    Args:
        config: of a model of placed points.
        loss: weights.
        optimiser: from `state.make_optimiser`.
        seed: of everything random in a step.
        mesh: devices to spread the samples over; None computes them all on one.
    """
    gradient = jax.value_and_grad(
        functools.partial(batch_loss, config, loss, mesh=mesh), has_aux=True
    )

    def step(state: TrainState, batch: Sample):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        keys = jax.random.split(key, batch.means.shape[0])
        (_, metrics), gradients = gradient(state.params, batch, keys)
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["gradient"] = optax.tree.norm(gradients)
        return TrainState(params, opt_state, state.step + 1), metrics

    return step


def initial_params(config: TransformerConfig, key: jax.Array, like: Sample) -> dict:
    """Draw the parameters of a model of placed points; `like` is a batch, for its shapes."""
    sample = expand(jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), like))
    points = jnp.asarray(template_queries(config.points).points, jnp.float32)[None]
    arguments = points, sample.crops, sample.photo, sample.weights
    model = Reconstructor(config)
    return jax.jit(functools.partial(model.init, method="change_placed"))(key, *arguments)


def batch_loss(
    config: TransformerConfig,
    loss: ReconstructionLoss,
    params: dict,
    batch: Sample,
    keys: Array,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the mean loss of a batch, and its terms unweighted; one key per sample.

    The devices of `mesh` share the rendering of the samples.
    """
    batch = expand(batch)
    hiding, tinting, viewing = jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, 3))(keys), 1, 0)
    batch = jax.vmap(functools.partial(_tint, loss))(batch, tinting)
    shown, hidden = jax.vmap(functools.partial(_hide, loss))(batch.photo, hiding)
    changes = regress(config, params, batch, shown)
    terms = jax.vmap(_terms)(batch, changes, shown, hidden)

    def views(samples: Any) -> Float[Array, " B"]:
        return jax.lax.map(lambda sample: _view_term(*sample), samples)

    terms["view"] = over_clips(views, mesh, (batch, changes, viewing))
    terms = jax.tree.map(jnp.mean, terms)
    value = jnp.sum(jnp.stack([getattr(loss, name) * term for name, term in terms.items()]))
    return value, {**terms, "loss": value}


def regress(config: TransformerConfig, params: dict, batch: Sample, photo: PhotoPoints) -> Changes:
    """Run the model on a batch, with what it may see of the placed points."""
    points = jnp.asarray(template_queries(config.points).points, jnp.float32)
    points = jnp.broadcast_to(points, (batch.means.shape[0], *points.shape))
    made = Reconstructor(config).apply(
        params, points, batch.crops, photo, batch.weights, method="change_placed"
    )
    assert isinstance(made, Changes)
    return made


def _tint(loss: ReconstructionLoss, sample: Sample, key: jax.Array) -> Sample:
    """Change the gain of the colour channels, in what is seen and in what is true alike."""
    gain = 1 + loss.tint * jax.random.uniform(key, (3,), minval=-1.0)

    def tinted(colors: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
        return jnp.clip(colors * gain, 0.0, 1.0)

    crops, photo, truth = sample.crops, sample.photo, sample.truth
    hands = None if crops.hands is None else tinted(crops.hands)
    views = jnp.concatenate([tinted(truth.views[..., :3]), truth.views[..., 3:]], -1)
    return dataclasses.replace(
        sample,
        crops=Crops(tinted(crops.body), tinted(crops.head), hands, crops.hands_seen),
        photo=dataclasses.replace(photo, colors=tinted(photo.colors)),
        truth=dataclasses.replace(truth, colors=tinted(truth.colors), views=views),
    )


def _hide(
    loss: ReconstructionLoss, photo: PhotoPoints, key: jax.Array
) -> tuple[PhotoPoints, Bool[Array, " N"]]:
    """Make the model believe that some seen points are not; return also which.

    They get colours as `paint` gives unseen ones: those of seen points around them.
    """
    where, size, lend = jax.random.split(key, 3)
    centres = jax.random.choice(where, photo.points, (loss.hidden,))
    radii = jax.random.uniform(size, (loss.hidden,), maxval=loss.largest)
    distance = jnp.linalg.norm(photo.points[:, None] - centres, axis=-1)
    hidden = photo.seen & (distance < radii).any(1)
    left = photo.seen & ~hidden
    share = left / jnp.maximum(left.sum(), 1)
    lenders = jax.random.choice(lend, len(left), (_LENDERS,), p=share)
    square = jnp.sum((photo.points[:, None] - photo.points[lenders]) ** 2, axis=-1)
    near = jax.nn.softmax(-square / 0.1**2, axis=1)
    guess = near @ photo.colors[lenders]
    return dataclasses.replace(
        photo,
        colors=jnp.where(hidden[:, None], guess, photo.colors),
        seen=left,
        shifts=jnp.where(hidden[:, None], 0.0, photo.shifts),
        reach=jnp.where(hidden, _HIDING_REACH, photo.reach),
    ), hidden


def _terms(
    sample: Sample, changes: Changes, shown: PhotoPoints, hidden: Bool[Array, " N"]
) -> dict[str, Float[Array, ""]]:
    """Return the losses of one sample's points."""
    truth = sample.truth
    asked = truth.color_known & ~shown.seen
    off = jnp.abs(changes.colors - truth.colors).mean(-1)
    way = jnp.sum(changes.shift * shown.rays, axis=-1) - true_way(truth, shown)
    moved = losses.charbonnier((100 * way) ** 2, 0.1)
    placed = truth.shift_known & ~hidden
    assert changes.weights is not None
    entropy = -jnp.sum(truth.weights * jnp.log(changes.weights + 1e-6), axis=-1)
    certain = -jnp.sum(truth.weights * jnp.log(truth.weights + 1e-6), axis=-1)
    return {
        "color": _mean(off, asked),
        "shift": _mean(moved, placed),
        "weights": (entropy - certain).mean(),
        "held": jnp.mean(changes.growth**2) + jnp.mean(changes.opacity**2) / 9,
    }


def true_way(truth: Truth, photo: PhotoPoints) -> Float[Array, "*B N"]:
    """Return how far each point should move along its ray, as far as it may, metres."""
    way = jnp.sum(truth.shift * photo.rays, axis=-1)
    return jnp.clip(way, jnp.where(photo.seen, -photo.reach, 0.0), photo.reach)


def _view_term(sample: Sample, changes: Changes, key: jax.Array) -> Float[Array, ""]:
    """Compare one turned view, over a random background."""
    pick, paint = jax.random.split(key)
    known = sample.truth.view_known
    index = jax.random.choice(pick, len(known), p=known / known.sum())
    background = jax.random.uniform(paint, (3,))
    truth = sample.truth.views[index]
    image, alpha = render_changed(
        sample, changes, sample.truth.viewmats[index], sample.truth.K[index], background
    )
    wanted = truth[..., :3] + background * (1 - truth[..., 3:])
    return jnp.abs(image - wanted).mean() + 0.3 * jnp.abs(alpha - truth[..., 3]).mean()


def render_changed(
    sample: Sample,
    changes: Changes,
    viewmat: Float[Array, "4 4"],
    K: Float[Array, "3 3"],
    background: Float[Array, " 3"],
    side: int = VIEW_SIDE,
) -> tuple[Float[Array, "side side 3"], Float[Array, "side side"]]:
    """Render one sample's Gaussians, changed, in the pose of its photo; image and alpha.

    New skinning weights do not show there: they say how to go on from this pose.
    """
    means, scales, opacities = apply_changes(sample.means, sample.scales, sample.opacities, changes)
    means, linear = skin(means, sample.weights, sample.truth.transforms)
    gaussians = pallas_splat.Gaussians(
        means=means,
        quats=sample.quats,
        scales=scales,
        opacities=opacities,
        colors=changes.colors,
        linear=linear,
    )
    camera = pallas_splat.Camera(viewmat=viewmat, K=K, width=side, height=side)
    shown = pallas_splat.render(gaussians, camera, background=background)
    return shown.image, shown.alpha


def _mean(values: Float[Array, " N"], where: Bool[Array, " N"]) -> Float[Array, ""]:
    return jnp.sum(values * where) / jnp.maximum(where.sum(), 1)
