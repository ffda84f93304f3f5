"""Training samples of the transformer: what it reads of a photo, and the truth about the person."""

import os
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from pallas_splat import Camera

from jaxavatar import animate
from jaxavatar.body import (
    JOINTS,
    PARENTS,
    BodyModel,
    load_template,
    local_transforms,
    skinning_transforms,
)
from jaxavatar.data import looks, portraits
from jaxavatar.files import replacing
from jaxavatar.reconstruction import crops
from jaxavatar.reconstruction.assemble import assemble, carry_home
from jaxavatar.reconstruction.observe import observe
from jaxavatar.reconstruction.optimise import optimise
from jaxavatar.reconstruction.paint import paint
from jaxavatar.reconstruction.place import Budget, Placement, place
from jaxavatar.reconstruction.query import template_queries
from jaxavatar.reconstruction.start import start
from jaxavatar.reconstruction.transformer import Crops, PhotoPoints, TransformerConfig
from jaxavatar.structs import Avatar, BodyPose, Findings

BUDGET = Budget(seen=(2600, 700, 4700), unseen=(1800, 500, 2500))
VIEW_SIDE = 128  # pixels
_VIEWS = 4
_HAIR_FOLLOWS = JOINTS.index("head")


@flax.struct.dataclass
class Truth:
    """What is known of a sample's person; leaves of `Sample` may be stacked.

    Attributes:
        colors: of each placed point, [0, 1].
        color_known: where `colors` holds.
        shift: from each placed point to where its spot of the body is, canonical metres.
        shift_known: where `shift` holds.
        weights: skinning weights.
        transforms: skinning transforms of the views' pose.
        viewmats: cameras of the views.
        K: their intrinsics.
        views: RGB times alpha, and alpha.
        view_known: which views there are.
    """

    colors: Float[Array, "*B N 3"]
    color_known: Bool[Array, "*B N"]
    shift: Float[Array, "*B N 3"]
    shift_known: Bool[Array, "*B N"]
    weights: Float[Array, "*B N J"]
    transforms: Float[Array, "*B J 3 4"]
    viewmats: Float[Array, "*B V 4 4"]
    K: Float[Array, "*B V 3 3"]
    views: Float[Array, "*B V S S 4"]
    view_known: Bool[Array, "*B V"]


@flax.struct.dataclass
class Sample:
    """One photo.

    Attributes:
        crops: what the encoders see.
        photo: the placed points.
        means: canonical centres of the placed Gaussians, metres.
        quats: their orientations.
        scales: their sizes, metres.
        opacities: of them, [0, 1].
        weights: the template's skinning weights.
        truth: what the photo does not show.
    """

    crops: Crops
    photo: PhotoPoints
    means: Float[Array, "*B N 3"]
    quats: Float[Array, "*B N 4"]
    scales: Float[Array, "*B N 3"]
    opacities: Float[Array, "*B N"]
    weights: Float[Array, "*B N J"]
    truth: Truth


def portrait_sample(config: TransformerConfig, seed: int) -> Sample:
    """Make the sample of a seed: a person who does not exist (`portraits.random_portrait`).

    Args:
        config: sizes of the encoders' inputs, number of query points.
        seed: not negative.

    Returns:
        NumPy arrays without a leading axis.
    """
    rng = np.random.default_rng([seed, 3])
    model = load_template()
    portrait = portraits.random_portrait(seed)
    person = portrait.person
    surface, K = person.surface, np.asarray(person.fit.K, float)
    placement = place(model, surface, K, portrait.findings.matte, BUDGET, rng)
    canonical, _, _ = carry_home(model, surface, placement)
    size = portrait.image.shape[:2]
    painted = paint(model, placement, canonical, portrait.image, portrait.findings.matte)
    avatar, _ = assemble(model, person.fit, surface, placement, painted, size)
    photo = observe(model, surface, placement, avatar, template_queries(config.points))
    cut = crops.make_crops(config, portrait.image, portrait.findings)
    known = photo.reach > 0
    at = looks.spots(model, placement.corners, placement.mix)
    colors = portraits.lit_colors(person.look, at, person.light, placement.normals)
    viewmats, intrinsics, views = _turned_views(model, person, rng)
    truth = Truth(
        colors=jnp.asarray(np.where(placement.seen[:, None], painted, colors)),
        color_known=known,
        shift=jnp.asarray(_true_shift(person, placement, avatar)),
        shift_known=known,
        weights=jnp.asarray(_true_weights(model, person, placement)),
        transforms=person.surface.transforms,
        viewmats=jnp.asarray(viewmats),
        K=jnp.asarray(intrinsics),
        views=jnp.asarray(views),
        view_known=jnp.ones(_VIEWS, bool),
    )
    return _sample(cut, photo, avatar, truth)


def photo_sample(
    config: TransformerConfig,
    image: Float[np.ndarray, "H W 3"],
    findings: Findings,
    seed: int = 0,
    steps: int = 100,
) -> Sample:
    """Make the sample of a real photo: the truth is its avatar, optimised on the photo.

    It holds for what the photo shows; views turn by up to 20 degrees.

    Args:
        config: sizes of the encoders' inputs, number of query points.
        image: the photo, [0, 1].
        findings: from `perception.perceive` on this photo.
        seed: for the choice of points and views.
        steps: of the optimisation.

    Returns:
        NumPy arrays without a leading axis.
    """
    begun = start(image, findings, BUDGET, seed)
    placed = begun.model, begun.surface, begun.placement, begun.avatar
    photo = observe(*placed, template_queries(config.points))
    best = optimise(begun.avatar, begun.target, steps, lambda *_: None)
    known = photo.seen & (photo.reach > 0)
    rest = begun.fit.pose
    local = local_transforms(rest.rotations, rest.translation)
    centre = np.asarray(rest.translation, float) + np.asarray(best.joints, float)[0]
    angles = np.deg2rad([0.0, -20.0, 20.0, 0.0])
    height, width = begun.target.matte.shape
    K = np.asarray(begun.target.K, float) * (VIEW_SIDE / max(height, width))
    K[2] = [0, 0, 1]
    intrinsics = np.tile(K, (_VIEWS, 1, 1))
    viewmats = np.stack([turned(centre, angle) for angle in angles])
    cameras = Camera(
        viewmat=jnp.asarray(viewmats, jnp.float32),
        K=jnp.asarray(intrinsics, jnp.float32),
        width=VIEW_SIDE,
        height=VIEW_SIDE,
    )
    still = BodyPose(
        rotations=jnp.zeros((_VIEWS, *rest.rotations.shape)),
        translation=jnp.zeros((_VIEWS, 3)),
        expression=jnp.zeros((_VIEWS, *rest.expression.shape)),
    )
    shown = animate.render_frames(animate.pose_avatar(best, still), cameras, jnp.zeros(3))
    truth = Truth(
        colors=best.colors,
        color_known=known,
        shift=best.means - begun.avatar.means,
        shift_known=known,
        weights=best.weights,
        transforms=skinning_transforms(best.joints, local, PARENTS),
        viewmats=jnp.asarray(viewmats),
        K=jnp.asarray(intrinsics),
        views=jnp.concatenate([shown.images, shown.alpha[..., None]], -1),
        view_known=jnp.array([True, True, True, False]),
    )
    return _sample(crops.make_crops(config, image, findings), photo, begun.avatar, truth)


def _sample(cut: Crops, photo: PhotoPoints, avatar: Avatar, truth: Truth) -> Sample:
    """Put a sample together; `cut` has a leading axis of length 1."""
    return _compact(
        Sample(
            crops=jax.tree.map(lambda leaf: leaf[0], cut),
            photo=photo,
            means=avatar.means,
            quats=avatar.quats,
            scales=avatar.scales,
            opacities=avatar.opacities,
            weights=avatar.weights,
            truth=truth,
        )
    )


def _true_weights(
    model: BodyModel, person: portraits.Person, placement: Placement
) -> Float[np.ndarray, "N J"]:
    """Return the template's weights; what is hair follows the head."""
    corners, mix = placement.corners, placement.mix
    weights = (np.asarray(model.weights, float)[corners] * mix[:, :, None]).sum(1)
    hair = looks.hair_share(person.look, model, looks.spots(model, corners, mix))
    weights *= 1 - hair[:, None]
    weights[:, _HAIR_FOLLOWS] += hair
    return weights


def _true_shift(
    person: portraits.Person, placement: Placement, avatar: Avatar
) -> Float[np.ndarray, "N 3"]:
    """Return the way from each point to the clothed surface, canonical metres."""
    clothed = (person.clothed[placement.corners] * placement.mix[:, :, None]).sum(1)
    return clothed - np.asarray(avatar.means, float)


def _turned_views(
    model: BodyModel, person: portraits.Person, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render a person as in the photo, from behind, and from anywhere."""
    angles = rng.uniform(-np.pi, np.pi, _VIEWS)
    angles[:2] = 0.0, np.pi + rng.normal(0, 0.4)
    viewmats, intrinsics, views = [], [], []
    centre = np.asarray(person.fit.pose.translation, float) + np.asarray(model.joints, float)[0]
    for angle in angles:
        viewmat = turned(centre, angle)
        K = np.asarray(person.fit.K, float).copy()
        K[:2] *= VIEW_SIDE / portraits.SIDE
        if angle and rng.random() < 0.4:  # close up on the head
            head = np.asarray(person.surface.posed, float)[_crown(model)]
            at = viewmat[:3, :3] @ head + viewmat[:3, 3]
            K[0, 0] = K[1, 1] = VIEW_SIDE * at[2] / 0.42
            K[:2, 2] = VIEW_SIDE / 2 - at[:2] / at[2] * K[0, 0] + [0, -0.12 * K[0, 0] / at[2]]
        image, alpha = portraits.shoot(person, viewmat, K, VIEW_SIDE)
        viewmats.append(viewmat)
        intrinsics.append(K)
        views.append(np.concatenate([image, alpha[..., None]], -1))
    return np.stack(viewmats), np.stack(intrinsics), np.stack(views)


def turned(centre: Float[np.ndarray, " 3"], angle: float) -> Float[np.ndarray, "4 4"]:
    """Return the view matrix of a camera that went round the vertical through `centre`."""
    viewmat = np.eye(4)
    viewmat[0, 0] = viewmat[2, 2] = np.cos(angle)
    viewmat[0, 2], viewmat[2, 0] = np.sin(angle), -np.sin(angle)
    viewmat[:3, 3] = centre - viewmat[:3, :3] @ centre
    return viewmat


def _crown(model: BodyModel) -> int:
    return int(np.asarray(model.vertices)[:, 1].argmax())


def _compact(sample: Sample) -> Sample:
    """Hold a sample in host memory: half precision where that is exact enough."""

    def leaf(path: tuple, x: Array) -> np.ndarray:
        name = path[-1].name
        array = np.asarray(x)
        if name in ("views", "body", "head", "hands"):
            return np.round(255 * array).clip(0, 255).astype(np.uint8)
        if name in ("colors", "weights", "shares", "scales", "quats", "opacities"):
            return array.astype(np.float16)
        return array.astype(np.float32) if array.dtype == np.float64 else array

    return jax.tree_util.tree_map_with_path(leaf, sample)


def stack(samples: Sequence[Sample]) -> Sample:
    """Put samples of equal sizes behind a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *samples)


def save_samples(path: str | os.PathLike[str], samples: Sample) -> None:
    """Write stacked samples as an `.npz` of plain arrays.

    Raises:
        InputError: the file cannot be written.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(samples)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **{_name(path): leaf for path, leaf in leaves})


def load_samples(path: str | os.PathLike[str], like: Sample) -> Sample:
    """Read what `save_samples` wrote; `like` is any sample, for the names."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    with np.load(path, allow_pickle=False) as stored:
        return jax.tree.unflatten(structure, [stored[_name(path)] for path, _ in leaves])


def _name(path: tuple) -> str:
    return ".".join(key.name for key in path)


def expand(sample: Sample) -> Sample:
    """Undo the compact storage: pictures to [0, 1], all numbers to float32."""

    def leaf(x: Array) -> Array:
        if x.dtype == jnp.uint8:
            return x.astype(jnp.float32) / 255
        return x.astype(jnp.float32) if x.dtype == jnp.float16 else x

    return jax.tree.map(leaf, sample)
