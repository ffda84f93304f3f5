"""Frames of a clip deformed and rendered one after the other, for losses on all of them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from pallas_splat import Camera

from jaxavatar import animate, losses
from jaxavatar.deformer import AvatarCode, Driver, Motion
from jaxavatar.structs import Avatar
from jaxavatar.training.sharding import over_frames

Terms = dict[str, Float[Array, ""]]


def show(
    driver: Driver,
    params: animate.Params,
    avatar: Avatar,
    code: AvatarCode,
    motion: Motion,
    camera: Camera,
    background: Float[Array, " 3"],
    neighbours: Int[Array, "N k"],
    render: tuple[tuple[str, Any], ...] = (),
    rematerialise: bool = False,
    appearance: bool = True,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "R H W 3"], Terms]:
    """Deform and render R frames, one at a time, and say how they are deformed.

    Deformation and rendering of a frame are one unit, so that no more than one frame of posed
    Gaussians exists at any time of the forward pass.

    Args:
        driver: the network.
        params: its parameters.
        avatar: whom to show.
        code: of the avatar.
        motion: of the R frames.
        camera: one for all frames, or one per frame (leaves with a leading axis R).
        background: a colour, [0, 1].
        neighbours: graph of the canonical Gaussians.
        render: options of the splatter, as pairs of name and value.
        rematerialise: keep nothing of a frame but its motion and its picture: the backward pass
            deforms and renders it again, just before it differentiates it.
        appearance: False lets no gradient of the pictures reach colours and opacities.
        mesh: devices that share the frames, in equal parts; None shows all on one.

    Returns:
        Pictures in [0, 1], and the means over the frames of `shape_terms`.
    """

    def frame(whole: Any, motion: Motion, camera: Camera) -> tuple[Float[Array, "H W 3"], Terms]:
        params, avatar, code, background, neighbours, _ = whole
        one = jax.tree.map(lambda leaf: leaf[None], motion)
        deformed = animate.deform_frames(driver, params, avatar, code, one)
        posed = deformed.gaussians
        if not appearance:
            posed = dataclasses.replace(
                posed,
                colors=jax.lax.stop_gradient(posed.colors),
                opacities=jax.lax.stop_gradient(posed.opacities),
            )
        pictures = animate.render_frames(posed, camera, background, **dict(render)).images
        return pictures[0], shape_terms(deformed, avatar, neighbours)

    frame = jax.checkpoint(frame) if rematerialise else frame
    moving = camera.viewmat.ndim == 3

    def show_some(whole: Any, shown: tuple[Motion, Camera | None]) -> Any:
        def one(item: tuple[Motion, Camera | None]) -> Any:
            return frame(whole, item[0], whole[-1] if item[1] is None else item[1])

        return jax.lax.map(one, shown)

    whole = params, avatar, code, background, neighbours, None if moving else camera
    pictures, terms = over_frames(show_some, mesh, whole, (motion, camera if moving else None))
    return pictures, jax.tree.map(jnp.mean, terms)


def shape_terms(deformed: animate.Deformed, avatar: Avatar, neighbours: Int[Array, "N k"]) -> Terms:
    """Return how far R deformed frames are from a rigid motion, and how large the offsets are."""
    rigidity = jax.vmap(losses.arap, in_axes=(None, 0, 0, None))
    offsets = deformed.offsets
    centimetres = 100 * offsets.position
    return {
        "arap": rigidity(
            avatar.means, deformed.gaussians.means, deformed.skinning, neighbours
        ).mean(),
        "position": jnp.mean(jnp.sum(centimetres**2, axis=-1)),
        "stretch": jnp.mean(offsets.stretch**2),
        "appearance": jnp.mean(offsets.opacity**2) + jnp.mean(offsets.color**2),
    }
