"""Every loss's gradient, and that of a whole training step, against differences in float64.

Of a function f and a random direction d, reverse-mode differentiation gives the slope of
f(x + h d) at h = 0; central differences of fourth order give it too. Reported is the largest
difference over some directions, relative to the largest slope. In each direction the best of
several h counts: a picture jumps where a Gaussian passes the renderer's cut-offs, which spoils the
differences across it, but a wrong gradient is wrong by every h.

Losses that see through pretrained networks (perceptual, LPIPS, identity, detected keypoints) are
checked by the tests of these networks. The gradient of eq. 8 is not that of its value: the residual
counts as a constant. It is compared with the slope of the encoded frames' product with that
constant.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar import losses
from jaxavatar.data.people import random_actor
from jaxavatar.deformer import Driver, load_params
from jaxavatar.losses import LossConfig, canonical
from jaxavatar.losses import score as scoring
from jaxavatar.structs import FPS
from jaxavatar.teachers.protocol import Told
from jaxavatar.teachers.video_dit import AutoencoderConfig, VideoDiTConfig, VideoDiTTeacher
from jaxavatar.training.learned import Learned, Rates, untouched
from jaxavatar.training.sequence import Sequence, SequenceConfig, sequence_terms
from jaxavatar.training.step import StepConfig, weigh
from jaxavatar.training.watching import FRONT, Spoken, Student, Tutor, make_student, watch

_STEP_LOSS = LossConfig(
    image=1.0,
    keypoint=0.1,
    shift=1.0,
    score=1.0,
    arap=1.0,
    temporal=0.1,
    spectral=1.0,
    spectrum=0.1,
    position=0.1,
    stretch=1.0,
    appearance=1.0,
)


@dataclasses.dataclass(frozen=True)
class GradientsConfig:
    """What is checked.

    Attributes:
        directions: random ones, per function.
        steps: values of h, relative to the size of the point.
        side: of the step's pictures, pixels.
        frames: of the step's clip.
        gaussians: of its person, on face, hands and body.
    """

    directions: int = 3
    steps: tuple[float, ...] = (1e-5, 1e-6, 1e-7, 1e-8)
    side: int = 24
    frames: int = 8
    gaussians: tuple[int, int, int] = (120, 40, 80)


def run(config: GradientsConfig, speech: Spoken) -> dict:
    """Return the relative error of every gradient, and that of a "whole step".

    Args:
        config: what.
        speech: that the driver of the whole step hears.
    """
    scene = _scene(config, speech)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        cases = {**_terms(rng), "score": _score(rng), "whole step": _step(*scene)}
        return {name: relative_error(config, *case) for name, case in cases.items()}


def relative_error(config: GradientsConfig, function: Callable[[Any], Array], point: Any) -> float:
    """Compare the slopes of a function of a tree of arrays along random directions."""
    rng = np.random.default_rng(1)

    def along(h: Array, direction: Any) -> Array:
        return function(jax.tree.map(lambda x, d: x + h * d, point, direction))

    value, slope = jax.jit(along), jax.jit(jax.grad(along))

    def difference(h: float, direction: Any) -> float:
        near, far = (float(value(k * h, direction) - value(-k * h, direction)) for k in (1, 2))
        return (8 * near - far) / (12 * h)

    slopes, errors = [], []
    for _ in range(config.directions):
        direction = jax.tree.map(
            lambda x: np.abs(x).max() * rng.standard_normal(np.shape(x)), point
        )
        slopes.append(float(slope(0.0, direction)))
        errors.append(min(abs(difference(h, direction) - slopes[-1]) for h in config.steps))
    return float(f"{np.max(errors) / np.abs(slopes).max():.2g}")


def _terms(rng: np.random.Generator) -> dict[str, tuple[Callable[[Any], Array], Any]]:
    """Return each loss as a function of one array, and a point."""
    pictures, others = jnp.asarray(rng.random((2, 2, 16, 16, 3)))
    track, aim = jnp.asarray(rng.standard_normal((2, 12, 5, 2)).cumsum(axis=1))
    confidence = jnp.asarray(rng.random((12, 5)))
    hand = jnp.arange(5) < 2
    points = rng.standard_normal((30, 3))
    graph = jnp.asarray(losses.neighbour_graph(points, 4))
    turns = jnp.linalg.qr(jnp.asarray(rng.standard_normal((30, 3, 3))))[0]
    groups = {name: np.arange(k, 30, 4) for k, name in enumerate(canonical.CLOSE_WEIGHTS)}
    keypoint = functools.partial(
        losses.keypoint_distance, targets=aim, weights=confidence, hand=hand, hand_weight=2.0
    )
    return {
        "image": (lambda x: losses.l1(x, others), pictures),
        "ssim": (lambda x: 1 - losses.ssim(x, others).mean(), pictures),
        "keypoint, Charbonnier": (keypoint, track),
        "keypoint, Geman-McClure": (functools.partial(keypoint, penalty="geman-mcclure"), track),
        "arap": (lambda x: losses.arap(jnp.asarray(points), x, turns, graph), 1.1 * points + 0.1),
        "as spherical as possible": (
            lambda x: losses.as_spherical(jnp.exp(x), groups),
            2 * rng.standard_normal((30, 3)),
        ),
        "as close as possible": (lambda x: losses.as_close(x, groups), 0.1 * points),
        "temporal": (lambda x: losses.jumps(x - aim, confidence, 0.5), track),
        "spectral": (lambda x: losses.fast_share(x, 7.0, FPS), track),
        "spectrum": (lambda x: losses.spectral_distance(x, aim, FPS), track),
    }


def _score(rng: np.random.Generator) -> tuple[Callable[[Any], Array], Any]:
    """Return a surrogate whose value and gradient are both what eq. 8 means.

    Its value is the product of the encoded frames with the constant residual, its gradient the
    one that `score_distillation` gives.
    """
    config = VideoDiTConfig(
        side=8,
        frames=2,
        patch=2,
        width=16,
        depth=1,
        heads=2,
        audio_width=5,
        reach=1,
        autoencoder=AutoencoderConfig(widths=(4, 8), channels=2),
    )
    teacher = VideoDiTTeacher(config)
    params = _double(jax.jit(teacher.init)(jax.random.key(0)))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape), params)
    frames = rng.random((1, 2, 8, 8, 3))
    told = Told(audio=rng.standard_normal((1, 4, 5)), reference=frames[:, 0])  # pyright: ignore[reportArgumentType]
    condition, settings = teacher.condition(params, told), scoring.ScoreConfig()
    key = jax.random.key(1)
    bound = scoring.frame_gradient(teacher, params, condition, settings)

    time_key, noise_key = jax.random.split(key)
    latents = teacher.encode(params, jnp.asarray(frames))
    tau = scoring.sample_time(settings, time_key, 1, 0.0)
    noise = jax.random.normal(noise_key, latents.shape, latents.dtype)
    push = scoring.residual(teacher, params, latents, condition, tau, noise, settings)

    @jax.custom_vjp
    def surrogate(x: Array) -> Array:
        return jnp.sum(teacher.encode(params, x) * push) / latents.size

    def forward(x: Array) -> tuple[Array, Array]:
        return surrogate(x), jax.grad(lambda y: scoring.score_distillation(bound, y, key))(x)

    surrogate.defvjp(forward, lambda gradient, back: (gradient * back,))
    return surrogate, frames


def _scene(config: GradientsConfig, speech: Spoken) -> tuple[Student, Sequence]:
    """Return a person and a clip of every kind of lesson."""
    rng = np.random.default_rng(2)
    params, driver_config = load_params()
    student = make_student(Driver(driver_config), params, random_actor(0, config.gaussians))
    tutor = Tutor(None, None, config.side, config.frames // 2)
    item = watch(student, tutor, speech, 0, config.frames, FRONT)
    seen = config.side * rng.random((config.frames, len(item.clip.keypoint_index), 2))
    shown = (2, config.side, config.side)
    clip = dataclasses.replace(
        item.clip,
        keypoints=jnp.asarray(seen),
        shifts=jnp.asarray(0.01 * rng.standard_normal((*seen.shape[:2], 3))),
        frames=jnp.array([1, config.frames - 1]),
        images=jnp.asarray(rng.random((*shown, 3))),
        masks=jnp.ones(shown),
    )
    return student, Sequence(clip, item.watched)


def _step(student: Student, item: Sequence) -> tuple[Callable[[Learned], Array], Learned]:
    """Return the objective of a step through time with every term, and what it trains.

    Eq. 8's teacher is replaced by one whose gradient is that of its value: it wants grey frames.
    """
    item = _double(item)
    sequence = SequenceConfig(
        step=StepConfig(loss=_STEP_LOSS, render=(("backend", "reference"),)),
        rates=Rates(driver=1.0, means=1.0, scales=1.0, opacities=1.0, colors=1.0),
        score_moves="everything",
        steps=10,
    )

    def grey(_: Any, condition: Any, progress: Array):
        def gradient(
            frames: Float[Array, "B T H W 3"], key: Array
        ) -> tuple[Float[Array, "B T H W 3"], Float[Array, ""]]:
            return (frames - 0.5) / frames.size, 0.5 * jnp.mean((frames - 0.5) ** 2)

        return gradient

    def objective(learned: Learned) -> Array:
        key = jax.random.key(0)
        terms = sequence_terms(sequence, student.driver, grey, None, learned, item, key)
        return weigh(terms, _STEP_LOSS)[0]

    start = _double(untouched(student.params, student.avatar))
    rng = np.random.default_rng(3)
    return objective, jax.tree.map(lambda x: x + 1e-3 * rng.standard_normal(x.shape), start)


def _double(tree: Any) -> Any:
    """Return the tree with its real numbers in float64."""

    def wide(leaf: Any) -> Any:
        real = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if real else leaf

    return jax.tree.map(wide, tree)
