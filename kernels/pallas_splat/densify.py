"""Densification within a fixed budget: Gaussians as samples of a Markov chain.

After Kheradmand et al., "3D Gaussian Splatting as Markov Chain Monte Carlo", NeurIPS 2024, whose
relocation is its equation 9. A scene holds N Gaussians at all times, each in one of three states
by its opacity: *unused*, exactly 0; *dead*, above 0 but not above a threshold; or *live*.
`relocate` moves the dead onto live ones, `grow` does the same with some of the unused ones, and
`perturb` adds the noise that turns gradient descent into Langevin dynamics. A training loop:

    gaussians = perturb(key, gaussians, strength)            # after each step
    result = relocate(key, gaussians)                        # every hundred steps or so
    result = grow(key, result.gaussians)
    features = features[result.sources]                      # whatever else belongs to Gaussians
    state = reset_rows(state, optimiser.init(params), result.changed)

All functions are pure, with static shapes: they run under `jit` and `vmap`.

With o the opacity of a Gaussian that k copies will share, equation 9 makes each of them
o' = 1 - (1 - o)^(1/k), so that together they are as opaque at their centre, and multiplies the
covariance by the square of o / sum_{i=1..k} sum_{j=0..i-1} C(i-1, j) (-1)^j o'^(j+1) / sqrt(j+1).
That sum alternates and its terms grow without bound. It is the integral it came from,

    (1 / sqrt(pi)) * integral of 1 - (1 - o' exp(-x^2))^k over x,

what k copies hide along a line, while a single one hides o. Both are 1D: in an image, copies are a
little narrower than the Gaussian they replace. The integrand is positive, smooth and falls like a
Gaussian, for which the trapezoidal rule converges exponentially (Trefethen and Weideman, 2014), so
any number of copies is exact to rounding, without a table of binomials.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from pallas_splat.project import rotations
from pallas_splat.structs import Gaussians

MIN_OPACITY = 0.005
"""Gaussians that are not more opaque than this are dead."""

_GATE_SHARPNESS = 100.0  # of the noise's gate, the authors' value
_STEP, _NODES = 0.2, 27  # of the trapezoidal rule on x >= 0: relative error 1e-11
_TICKETS = 2.0**31  # integer weights of all Gaussians together; half of the range of uint32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Relocation:
    """Gaussians after some of them took the places of others.

    Attributes:
        gaussians: as many as before.
        sources: index of the Gaussian that each one now is a copy of; its own where it stayed.
            Gather any other array of N rows by it.
        moved: those that stayed not.
        changed: those that moved and those that they were copied from, which got fainter: their
            rows of an optimiser's state are out of date.
    """

    gaussians: Gaussians
    sources: Int[Array, " N"]
    moved: Bool[Array, " N"]
    changed: Bool[Array, " N"]


def relocate(key: Array, gaussians: Gaussians, min_opacity: float = MIN_OPACITY) -> Relocation:
    """Move dead Gaussians onto live ones, drawn in proportion to opacity, with replacement.

    Nothing moves where nothing lives. Unused Gaussians stay.

    Args:
        key: of the random draw.
        gaussians: the scene.
        min_opacity: the threshold of death, in (0, 1).

    Returns:
        The scene with no dead Gaussians, which looks nearly as before. An opacity that division
        would take below the threshold is held there, and the scale then shrinks for it.
    """
    dead = (gaussians.opacities > 0) & (gaussians.opacities <= min_opacity)
    return _onto_live(key, gaussians, dead, min_opacity)


def grow(
    key: Array, gaussians: Gaussians, share: float = 0.05, min_opacity: float = MIN_OPACITY
) -> Relocation:
    """Bring unused Gaussians into use, by copying live ones as `relocate` does.

    Args:
        key: of the random draw.
        gaussians: the scene.
        share: how many to activate, relative to those in use; at least one, if there is any.
            The default is the paper's.
        min_opacity: only Gaussians above it are copied, and no copy is below it.

    Returns:
        The scene, which looks nearly as before. The first unused ones were taken.
    """
    unused = gaussians.opacities <= 0
    wanted = jnp.maximum(share * jnp.sum(gaussians.opacities > 0), 1)
    return _onto_live(key, gaussians, unused & (jnp.cumsum(unused) <= wanted), min_opacity)


def perturb(
    key: Array,
    gaussians: Gaussians,
    strength: float | Float[Array, ""],
    min_opacity: float = MIN_OPACITY,
) -> Gaussians:
    """Add noise to the means: the Langevin term of the paper's update.

    A mean moves by strength * sigmoid(-100 (o - min_opacity)) * Sigma eta, with eta standard
    normal and Sigma the covariance, `linear` included: along a Gaussian's long axes, and
    only if it is nearly transparent (the gate is 1/2 at the threshold, 1e-4 at 0.1).

    Args:
        key: of the noise.
        gaussians: the scene.
        strength: in 1 / world units, because Sigma is in world units squared: a transparent
            Gaussian of standard deviation s takes steps of strength * s^2. The authors use 5e5
            times the learning rate of the means.
        min_opacity: where the gate is half open.

    Returns:
        The scene with other means.
    """
    eta = jax.random.normal(key, gaussians.means.shape, gaussians.means.dtype)
    factor = rotations(gaussians.quats)
    if gaussians.linear is not None:
        linear = [[gaussians.linear[:, i, j] for j in range(3)] for i in range(3)]
        factor = [
            [sum(linear[i][k] * factor[k][j] for k in range(3)) for j in range(3)] for i in range(3)
        ]
    axes = [
        gaussians.scales[:, j] ** 2 * sum(factor[i][j] * eta[:, i] for i in range(3))
        for j in range(3)
    ]
    noise = [sum(factor[i][j] * axes[j] for j in range(3)) for i in range(3)]
    gate = jax.nn.sigmoid(-_GATE_SHARPNESS * (gaussians.opacities - min_opacity))
    means = gaussians.means + (strength * gate)[:, None] * jnp.stack(noise, axis=1)
    return dataclasses.replace(gaussians, means=means)


def divide(
    opacities: Float[Array, " N"], copies: Int[Array, " N"], min_opacity: float = 0.0
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Divide Gaussians among copies of themselves, equation 9.

    Args:
        opacities: in (0, 1].
        copies: how many Gaussians there will be in place of each, at least 1.
        min_opacity: the new opacities are not below it; the factors make up for that.

    Returns:
        Opacities of the copies, and what to multiply their scales with.
    """
    opacities = jnp.minimum(opacities, 1 - jnp.finfo(opacities.dtype).eps)
    copies = copies.astype(opacities.dtype)
    divided = jnp.maximum(-jnp.expm1(jnp.log1p(-opacities) / copies), min_opacity)
    nodes = _STEP * np.arange(_NODES)
    weights = np.full(_NODES, 2 * _STEP / math.sqrt(math.pi))
    weights[0] /= 2
    profile = jnp.asarray(np.exp(-(nodes**2)), opacities.dtype)
    hidden = -jnp.expm1(copies[:, None] * jnp.log1p(-divided[:, None] * profile))
    return divided, opacities / jnp.sum(hidden * jnp.asarray(weights, opacities.dtype), axis=1)


def reset_rows(state: PyTree, initial: PyTree, rows: Bool[Array, " N"]) -> PyTree:
    """Put rows of an optimiser's state back to what they were in the beginning.

    For any state of any optimiser, e.g. optax's, nested and masked as it may be: each leaf whose
    first axis is N is taken to have one row per Gaussian; others, like step counts, are kept.
    So give it the part of the state that belongs to the Gaussians where other parameters also
    happen to have N rows.

    Args:
        state: to reset in part.
        initial: of a fresh start, `optimiser.init(params)`.
        rows: which ones, `Relocation.changed`.

    Returns:
        The state, of the same structure.

    Raises:
        ValueError: the structures differ.
    """

    def reset(leaf: Any, fresh: Any) -> Any:
        if jnp.shape(leaf)[:1] != rows.shape:
            return leaf
        return jnp.where(rows.reshape(-1, *[1] * (jnp.ndim(leaf) - 1)), fresh, leaf)

    return jax.tree.map(reset, state, initial)


def _onto_live(
    key: Array, gaussians: Gaussians, targets: Bool[Array, " N"], min_opacity: float
) -> Relocation:
    opacities, n = gaussians.opacities, targets.shape[0]
    tickets = jnp.where(opacities > min_opacity, opacities, 0) * (_TICKETS / max(n, 2))
    drawn, any_live = _draw(key, jnp.round(tickets).astype(jnp.uint32))
    moved = targets & any_live
    sources = jnp.where(moved, drawn, jnp.arange(n, dtype=jnp.int32))
    copies = (1 + jnp.zeros(n, jnp.int32).at[sources].add(moved.astype(jnp.int32)))[sources]
    changed = copies > 1

    copied = jax.tree.map(lambda rows: rows[sources], gaussians)
    whole = jnp.where(changed, copied.opacities, 1)  # 0 is not divided
    divided, factors = divide(whole, copies, min_opacity)
    gaussians = dataclasses.replace(
        copied,
        opacities=jnp.where(changed, divided, copied.opacities),
        scales=jnp.where(changed[:, None], copied.scales * factors[:, None], copied.scales),
    )
    return Relocation(gaussians, sources, moved, changed)


def _draw(key: Array, tickets: UInt32[Array, " N"]) -> tuple[Int[Array, " N"], Bool[Array, ""]]:
    """Draw N indices in proportion to their tickets, and say whether there are any tickets.

    Integers add up exactly. In float32 a running sum of a million opacities is so coarse that it
    would distort the odds, and draw now and then what has no weight at all.
    """
    ends = jnp.cumsum(tickets)
    numbers = jax.random.randint(key, tickets.shape, 0, ends[-1], jnp.uint32)
    drawn = jnp.searchsorted(ends, numbers, side="right").astype(jnp.int32)
    return drawn, ends[-1] > 0
