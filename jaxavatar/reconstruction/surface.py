"""The person's surface: the fitted template, bent so that the face meets the landmarks exactly.

The fit leaves a millimetre or two at the lips and eyelids. A talking face needs the lip line of
the surface where the photo has it, otherwise the mouth opens through a lip. So the remaining
landmark errors are spread over the head by a smooth interpolation, and the lips, which a photo may
show parted, are brought together in the canonical state.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree

from jaxavatar.body import JOINTS, PARENTS, VERTEX_GROUPS, BodyModel, kinematics, skinning
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.reconstruction import correspond
from jaxavatar.reconstruction.fit import BodyFit, resize_hands
from jaxavatar.structs import FaceLandmarks

# Inner lips of the face mesh, upper and lower points that touch when the mouth is closed.
LIP_PAIRS = ((80, 88), (81, 178), (82, 87), (13, 14), (312, 317), (311, 402), (310, 318))
_SMOOTHING = 1e-7  # square metres: landmarks are good to a fraction of a millimetre
_REACH = 0.025  # metres over which a correction fades outside the landmarks
# Upper and lower lip touch, yet move apart: an extra coordinate keeps them distinct.
JAW_DISTANCE = 0.05


@flax.struct.dataclass
class Surface:
    """One person's mesh.

    Attributes:
        neutral: canonical vertices, closed neutral mouth, metres.
        photo: canonical vertices with the face as in the photo.
        posed: `photo` posed as in the photo, world metres.
        joints: rest joints, canonical metres.
        transforms: skinning transforms of the photo's pose.
    """

    neutral: Float[Array, "V 3"]
    photo: Float[Array, "V 3"]
    posed: Float[Array, "V 3"]
    joints: Float[Array, "J 3"]
    transforms: Float[Array, "J 3 4"]


def build_surface(model: BodyModel, fit: BodyFit, face: FaceLandmarks | None) -> Surface:
    """Shape the template like the person; without a detected face the fit stays as it is."""
    fitted = _fitted(model, fit)
    neutral, photo, posed = (np.asarray(x) for x in (fitted.neutral, fitted.photo, fitted.posed))
    if face is not None:
        head = np.asarray(fitted.transforms)[JOINTS.index("head"), :, :3]
        field = _meet_landmarks(model, posed, np.asarray(fit.K), face, head).astype(np.float32)
        neutral, photo = neutral + field, photo + field
        posed = _skinned(photo, model.weights, fitted.transforms)
    neutral = neutral + _close_lips(model, neutral).astype(np.float32)
    neutral, photo, posed = (jnp.asarray(x) for x in (neutral, photo, posed))
    return fitted.replace(neutral=neutral, photo=photo, posed=posed)


@jax.jit
def _fitted(model: BodyModel, fit: BodyFit) -> Surface:
    """Return the surface as the fit has it, lips unclosed."""
    directions, joint_directions = correspond.shape_directions(model)
    neutral = model.vertices + jnp.tensordot(fit.betas, directions, 1)
    joints = model.joints + jnp.tensordot(fit.betas, joint_directions, 1)
    neutral, joints = resize_hands(neutral, model.weights, joints, fit.hands)
    local = kinematics.local_transforms(fit.pose.rotations, fit.pose.translation)
    transforms = kinematics.skinning_transforms(joints, local, PARENTS)
    photo = neutral + jnp.tensordot(fit.pose.expression, model.expression_dirs, 1)
    posed, _ = skinning.skin(photo, model.weights, transforms)
    return Surface(neutral, photo, posed, joints, transforms)


@jax.jit
def _skinned(
    points: Float[Array, "V 3"], weights: Float[Array, "V J"], transforms: Float[Array, "J 3 4"]
) -> Float[Array, "V 3"]:
    return skinning.skin(points, weights, transforms)[0]


def _landmark_points(vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "478 3"]:
    corners, mix = load_face_landmarks()
    return (vertices[corners] * mix[:, :, None]).sum(1)


def jaw_share(model: BodyModel) -> Float[np.ndarray, " V"]:
    """How far each vertex follows the jaw, 0 to 1: what tells the lower lip from the upper."""
    jaw = np.asarray(model.expression_dirs)[model.expression_names.index("jawOpen")]
    size = np.linalg.norm(jaw, axis=1)
    return size / size.max()


def _places(model: BodyModel) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates for interpolation, of landmarks and of vertices: position and jaw share."""
    vertices = np.asarray(model.vertices, float)
    four = np.concatenate([vertices, JAW_DISTANCE * jaw_share(model)[:, None]], 1)
    corners, mix = load_face_landmarks()
    return (four[corners] * mix[:, :, None]).sum(1), four


def _spread(
    places: Float[np.ndarray, "L 4"],
    displacement: Float[np.ndarray, "L 3"],
    vertices: Float[np.ndarray, "V 4"],
) -> Float[np.ndarray, "V 3"]:
    """Interpolate displacements smoothly and let them fade beyond the landmarks."""
    distance, _ = KDTree(places).query(vertices)
    near = distance < 4 * _REACH
    field = np.zeros((len(vertices), 3))
    interpolate = RBFInterpolator(places, displacement, kernel="linear", smoothing=_SMOOTHING)
    fade = np.exp(-0.5 * (np.maximum(distance[near] - 0.01, 0.0) / _REACH) ** 2)
    field[near] = interpolate(vertices[near]) * fade[:, None]
    return field


def _meet_landmarks(
    model: BodyModel,
    posed: Float[np.ndarray, "V 3"],
    K: Float[np.ndarray, "3 3"],
    face: FaceLandmarks,
    head: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "V 3"]:
    """Return the canonical displacement that puts the surface's landmarks onto the photo's."""
    points = _landmark_points(posed)
    depth = points[:, 2:]
    pixels = points[:, :2] / depth * K[0, 0] + K[:2, 2]
    # Parallel to the image plane: the photo says nothing about depth.
    world = np.concatenate([(face.points - pixels) * depth / K[0, 0], np.zeros((478, 1))], 1)
    places, vertices = _places(model)
    keep = np.arange(468)  # irises move with the eyes, not with the skin
    field = _spread(places[keep], (world @ head)[keep], vertices)
    for group, iris in ((1, 473), (2, 468)):  # the person's left eye, then the right
        field[np.asarray(model.vertex_group) == group] = (world @ head)[iris : iris + 5].mean(0)
    # Teeth and tongue sit behind the lips, rigidly: they take the mean correction of the mouth.
    mouth = (world @ head)[list(_LIPS)].mean(0)
    field[np.asarray(model.vertex_group) >= VERTEX_GROUPS.index("upper_teeth")] = mouth
    return field


def _close_lips(model: BodyModel, neutral: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
    """Return the displacement that brings parted lips to the template's touching ones."""
    points, template = _landmark_points(neutral), _landmark_points(np.asarray(model.vertices))
    upper, lower = np.array(LIP_PAIRS).T
    gap = (points[lower] - points[upper]) - (template[lower] - template[upper])
    gap[:, 0] = 0.0  # lips meet up and down, not sideways
    displacement = np.zeros((468, 3))
    displacement[upper] = gap / 2
    displacement[lower] = -gap / 2
    lips = set(_LIPS)
    fixed = [i for i in range(468) if i not in lips]
    keep = np.concatenate([fixed, upper, lower])
    places, vertices = _places(model)
    field = _spread(places[keep], displacement[keep], vertices)
    field[np.asarray(model.vertex_group) != 0] = 0.0
    return field


_LIPS = (
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409),
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415),
    *(76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408),
    *(62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407),
)
"""The face mesh's rings around the mouth, from the outer border to the inner one."""
