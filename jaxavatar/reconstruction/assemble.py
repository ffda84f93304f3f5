"""Turn placed and painted points into an `Avatar`."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from jaxavatar.body import BodyModel, skinning
from jaxavatar.reconstruction.fit import BodyFit
from jaxavatar.reconstruction.place import ORDER, Placement
from jaxavatar.reconstruction.surface import JAW_DISTANCE, Surface, jaw_share
from jaxavatar.structs import Avatar, BodyPose

# Face units that stay when the person is at rest; the others would leave the mouth or an eye open.
_RESTING_UNITS = ("brow", "cheek", "nose", "mouthSmile", "mouthFrown", "mouthDimple")
_ANCHORS = 64
_THICKNESS = 0.25  # of a Gaussian, relative to its extent along the surface
_OPACITY = 0.95

_skin, _inverse_skin = jax.jit(skinning.skin), jax.jit(skinning.inverse_skin)


def carry_home(
    model: BodyModel, surface: Surface, placement: Placement
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"], Float[np.ndarray, "N J"]]:
    """Undo the photo's pose.

    Returns:
        Canonical centres with the photo's face, the canonical displacement from there to the
        neutral face, and skinning weights.
    """
    corners, mix = placement.corners, placement.mix[:, :, None]

    def on_surface(values: Float[Array, "V d"]) -> Float[np.ndarray, "N d"]:
        return (np.asarray(values)[corners] * mix).sum(1)

    weights = on_surface(model.weights)
    posed = on_surface(surface.posed) + placement.shift
    photo = _inverse_skin(jnp.asarray(posed), jnp.asarray(weights), surface.transforms)
    to_neutral = on_surface(surface.neutral) - on_surface(surface.photo)
    return np.asarray(photo), to_neutral, weights


def assemble(
    model: BodyModel,
    fit: BodyFit,
    surface: Surface,
    placement: Placement,
    colors: Float[np.ndarray, "N 3"],
    image_size: tuple[int, int],
) -> tuple[Avatar, Float[np.ndarray, "N 3"]]:
    """Build the avatar before optimisation.

    Args:
        model: the body.
        fit: pose and camera of the photo.
        surface: the person's mesh.
        placement: where the Gaussians are, grouped by region.
        colors: of each.
        image_size: (height, width) that `fit.K` refers to.

    Returns:
        The avatar, and the canonical displacement of every Gaussian that gives it the photo's
        face again.
    """
    photo, to_neutral, weights = carry_home(model, surface, placement)
    resting = np.array([name.startswith(_RESTING_UNITS) for name in model.expression_names])
    photo_expression = np.asarray(fit.pose.expression)
    rest_expression = np.where(resting, photo_expression, 0.0)

    units = np.asarray(model.expression_dirs)  # E V 3
    count = int((placement.region == ORDER.index("face")).sum())
    face_units = np.einsum(
        "enka,nk->nea", units[:, placement.corners[:count]], placement.mix[:count]
    )
    rest_shift = np.zeros_like(photo)
    rest_shift[:count] = np.einsum("nea,e->na", face_units, rest_expression)
    means = photo + to_neutral + rest_shift

    _, linear = _skin(jnp.asarray(photo), jnp.asarray(weights), surface.transforms)
    quats = _discs(placement.normals, np.asarray(linear))
    drawn = placement.sizes > 0
    ones = np.ones_like(placement.slant)
    along = np.stack([ones, placement.slant, _THICKNESS * ones], 1)
    scales = np.maximum(placement.sizes, 1e-4)[:, None] * along
    template = (np.asarray(model.vertices)[placement.corners] * placement.mix[:, :, None]).sum(1)
    avatar = Avatar(
        means=jnp.asarray(means, jnp.float32),
        quats=jnp.asarray(quats, jnp.float32),
        scales=jnp.asarray(scales, jnp.float32),
        opacities=jnp.asarray(np.where(drawn, _OPACITY, 0.0), jnp.float32),
        colors=jnp.asarray(colors, jnp.float32),
        weights=jnp.asarray(weights, jnp.float32),
        face_units=jnp.asarray(face_units, jnp.float32),
        template_points=jnp.asarray(template, jnp.float32),
        anchors=jnp.asarray(_spread_out(template, drawn, _ANCHORS), jnp.int32),
        landmarks=jnp.asarray(_landmarks(model, template, placement, drawn), jnp.int32),
        joints=jnp.asarray(surface.joints),
        rest=BodyPose(
            rotations=fit.pose.rotations,
            translation=fit.pose.translation,
            expression=jnp.asarray(rest_expression),
        ),
        photo_expression=jnp.asarray(photo_expression),
        K=jnp.asarray(fit.K),
        n_face=count,
        n_hand=int((placement.region == ORDER.index("hand")).sum()),
        image_size=image_size,
    )
    return avatar, -(to_neutral + rest_shift)


def _discs(normals: Float[np.ndarray, "N 3"], linear: Float[np.ndarray, "N 3 3"]) -> np.ndarray:
    """Return canonical quaternions (wxyz) of discs whose third axis is the posed normal."""
    # The first axis lies in the image plane, so the second is the steepest one.
    helper = np.where(np.abs(normals[:, 2:]) < 0.999, [[0, 0, 1.0]], [[0, 1.0, 0]])
    first = np.cross(helper, normals)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    posed = np.stack([first, np.cross(normals, first), normals], axis=2)
    u, _, vt = np.linalg.svd(linear.transpose(0, 2, 1) @ posed)
    rotation = u @ vt
    rotation[:, :, 0] *= np.sign(np.linalg.det(rotation))[:, None]
    return Rotation.from_matrix(rotation).as_quat(scalar_first=True)


def _spread_out(points: np.ndarray, drawn: np.ndarray, count: int) -> np.ndarray:
    """Choose anchors far from each other (farthest-point sampling from the first one)."""
    distance = np.where(drawn, np.inf, -1.0)
    chosen = [int(np.argmax(drawn))]
    for _ in range(count - 1):
        step = np.linalg.norm(points - points[chosen[-1]], axis=1)
        distance = np.minimum(distance, step)
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen)


def _landmarks(
    model: BodyModel, template: np.ndarray, placement: Placement, drawn: np.ndarray
) -> np.ndarray:
    """Return the Gaussian nearest to each of `body.LANDMARKS`.

    Upper and lower lip touch, so nearness counts how far a point follows the jaw.
    """
    share = JAW_DISTANCE * jaw_share(model)
    spots = np.asarray(model.landmarks)
    own = (share[placement.corners] * placement.mix).sum(1)
    tree = KDTree(np.concatenate([template, own[:, None]], 1)[drawn])
    wanted = np.concatenate([np.asarray(model.vertices)[spots], share[spots, None]], 1)
    return np.flatnonzero(drawn)[tree.query(wanted)[1]]
