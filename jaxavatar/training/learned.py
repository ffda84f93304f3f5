"""What personal training may change: the driver's parameters and the avatar's own Gaussians.

Which of them move, and how fast, is a choice (`Rates`); the others are frozen, get no gradient,
and come out bit for bit as they went in.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxavatar.animate import Params
from jaxavatar.structs import Avatar

Region = Literal["face", "hand", "body"]
REGIONS: tuple[Region, ...] = ("face", "hand", "body")
_BY_REGION = ("gated", "gated_bias", "out", "out_bias")  # leaves of the Gaussian head, [3, ...]


@flax.struct.dataclass
class Retouch:
    """Changes of an avatar's Gaussians: unbounded, and none when zero.

    Attributes:
        means: of the canonical centres, squashed to `Bounds.means`.
        scales: of the logarithm of the standard deviations, squashed to `Bounds.scales`.
        opacities: squashed to `Bounds.opacities`.
        colors: squashed to `Bounds.colors`.
    """

    means: Float[Array, "N 3"]
    scales: Float[Array, "N 3"]
    opacities: Float[Array, " N"]
    colors: Float[Array, "N 3"]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How far a Gaussian may change: metres, logarithm, and values of [0, 1]."""

    means: float = 0.004
    scales: float = 0.35
    opacities: float = 0.3
    colors: float = 0.25


@flax.struct.dataclass
class Learned:
    """Everything that training may change."""

    driver: Params
    avatar: Retouch


@dataclasses.dataclass(frozen=True)
class Rates:
    """What is trained, how fast; zero freezes.

    Attributes:
        driver: learning rate of the driver's parameters.
        parts: prefixes of their paths, such as "gaussian", "motion", "fusion/gate_in"; ("",)
            stands for all.
        regions: whose rows of the Gaussian head's region MLPs are trained, if that head is.
        means: learning rate of the avatar's centres.
        scales: of its scales.
        opacities: of its opacities.
        colors: of its colours.
        warmup: steps of a linear rise of all rates; a cosine then brings them to zero.
        steps: at which they arrive there.
        clip: bound of the norm of each group's gradient.
    """

    driver: float = 3e-4
    parts: tuple[str, ...] = ("",)
    regions: tuple[Region, ...] = REGIONS
    means: float = 0.0
    scales: float = 0.0
    opacities: float = 0.0
    colors: float = 0.0
    warmup: int = 10
    steps: int = 1000
    clip: float = 1.0


def untouched(driver: Params, avatar: Avatar) -> Learned:
    """Return where personal training starts: these parameters, this avatar."""
    kinds = [field.name for field in dataclasses.fields(Retouch)]
    return Learned(driver, Retouch(**{k: jnp.zeros_like(getattr(avatar, k)) for k in kinds}))


def retouched(avatar: Avatar, retouch: Retouch, bounds: Bounds = Bounds()) -> Avatar:
    """Return the avatar with the changes applied; opacities and colours stay in [0, 1]."""
    change = {
        field.name: getattr(bounds, field.name) * jnp.tanh(getattr(retouch, field.name))
        for field in dataclasses.fields(Retouch)
    }
    return dataclasses.replace(
        avatar,
        means=avatar.means + change["means"],
        scales=avatar.scales * jnp.exp(change["scales"]),
        opacities=jnp.clip(avatar.opacities + change["opacities"], 0.0, 1.0),
        colors=jnp.clip(avatar.colors + change["colors"], 0.0, 1.0),
    )


def groups(learned: Learned, rates: Rates) -> Learned:
    """Label every leaf by its group: "driver", "means", ..., or "frozen".

    Raises:
        ValueError: a prefix fits no parameter.
    """
    missing = set(rates.parts)

    def of_driver(path: tuple[Any, ...], _: Array) -> str:
        name = "/".join(str(key.key) for key in path).removeprefix("params/")
        fitting = {part for part in rates.parts if _within(name, part)}
        missing.difference_update(fitting)
        return "driver" if fitting and rates.driver else "frozen"

    driver = jax.tree_util.tree_map_with_path(of_driver, learned.driver)
    if missing:
        raise ValueError(f"the driver has no parameters {sorted(missing)}")
    kinds = [field.name for field in dataclasses.fields(Retouch)]
    return Learned(
        driver=driver,
        avatar=Retouch(**{k: k if getattr(rates, k) else "frozen" for k in kinds}),  # pyright: ignore[reportArgumentType]
    )


def trainable(learned: Learned, rates: Rates) -> Learned:
    """Return `learned` with gradients stopped at all that is frozen."""
    return jax.tree.map(
        lambda leaf, group: jax.lax.stop_gradient(leaf) if group == "frozen" else leaf,
        learned,
        groups(learned, rates),
    )


def personal_optimiser(rates: Rates) -> optax.GradientTransformation:
    """Build Adam with a rate per group, for `Learned`.

    Without weight decay: what has no gradient stays where it is.
    """
    named: dict[Hashable, float] = {
        name: getattr(rates, name) for name in ("driver", *_kinds()) if getattr(rates, name)
    }
    moving: dict[Hashable, Any] = {name: _adam(rate, rates) for name, rate in named.items()}

    def chosen(updates: Any, _: Any) -> Any:
        return _chosen_rows(updates, rates.regions)

    return optax.chain(
        optax.stateless(chosen),
        optax.multi_transform(
            moving | {"frozen": optax.set_to_zero()}, lambda learned: groups(learned, rates)
        ),
    )


def _adam(rate: float, rates: Rates) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, rates.warmup, rates.steps)
    # The floor keeps the tiny gradients of hidden Gaussians from being scaled up to full steps.
    return optax.chain(optax.clip_by_global_norm(rates.clip), optax.adam(schedule, eps=3e-7))


def _chosen_rows(updates: Learned, regions: tuple[Region, ...]) -> Learned:
    """Blank the updates of the regions' MLPs that are not to be trained."""
    chosen = jnp.array([float(region in regions) for region in REGIONS])

    def keep(path: tuple[Any, ...], leaf: Array) -> Array:
        names = [str(key.key) for key in path]
        if names[-2:-1] == ["gaussian"] and names[-1] in _BY_REGION:
            return leaf * chosen.reshape(-1, *(1,) * (leaf.ndim - 1)).astype(leaf.dtype)
        return leaf

    return dataclasses.replace(
        updates, driver=jax.tree_util.tree_map_with_path(keep, updates.driver)
    )


def _within(name: str, prefix: str) -> bool:
    return prefix in ("", name) or name.startswith(prefix + "/")


def _kinds() -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(Retouch))
