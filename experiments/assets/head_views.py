"""Pictures of the template's head for a landmark network, and what they show."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxavatar.body import LANDMARKS, VERTEX_GROUPS, BodyModel, vertex_normals
from jaxavatar.reconstruction.raster import rasterise
from jaxavatar.structs import PoseLandmarks

SIDE = 640  # pixels
_DISTANCE = 1.0  # metres from the camera to the head
_FOCAL = 1900.0  # pixels
_AMBIENT = 0.35
_INTO_THE_HEAD = np.array([0.0, -0.02, -0.08])  # from the eyes to what the camera looks at, metres
IRIS_RADIUS = 0.0059  # metres
_PUPIL_RADIUS = 0.0022
# How the body detector names the head: nose, eyes from the inside out, ears, mouth.
_EARS = (7, 8)
_NAMED = (
    (0, "nose_tip"),
    *((1, "left_eye_inner"), (2, "left_eye_upper"), (3, "left_eye_outer")),
    *((4, "right_eye_inner"), (5, "right_eye_upper"), (6, "right_eye_outer")),
    *((9, "mouth_left"), (10, "mouth_right")),
)


@dataclasses.dataclass(frozen=True)
class View:
    """One picture.

    Attributes:
        image: [0, 1].
        pixels: where every vertex is in it.
        shown: which triangles it shows.
        pose: where the head is, named like the body detector does.
    """

    image: Float[np.ndarray, "H W 3"]
    pixels: Float[np.ndarray, "V 2"]
    shown: Bool[np.ndarray, " F"]
    pose: PoseLandmarks


def render(
    model: BodyModel,
    vertices: Float[np.ndarray, "V 3"],
    colors: Float[np.ndarray, "V 3"],
    yaw: float,
    light: Float[np.ndarray, " 3"],
) -> View:
    """Photograph a head with a matt skin before a grey wall.

    Args:
        model: the template.
        vertices: of the person in the T-pose.
        colors: of the vertices, from `make_up`.
        yaw: how far the person turns to their left, radians.
        light: direction to the lamp as the camera sees it (x right, y up, z towards the camera).
    """
    c, s = np.cos(yaw), np.sin(yaw)
    turned = (vertices - _middle(model)) @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    faces = np.asarray(model.faces)
    normals = np.asarray(vertex_normals(jnp.asarray(turned), model.faces))
    depth = _DISTANCE - turned[:, 2]
    pixels = turned[:, :2] * [1, -1] / depth[:, None] * _FOCAL + SIDE / 2
    owner, mix = rasterise(pixels, depth, faces, (SIDE, SIDE))

    normal = (normals[faces[owner]] * mix[..., None]).sum(2)
    shade = _AMBIENT + (1 - _AMBIENT) * np.clip(normal @ (light / np.linalg.norm(light)), 0, None)
    image = (colors[faces[owner]] * mix[..., None]).sum(2) * shade[..., None]
    image[owner < 0] = 0.5
    shown = np.zeros(len(faces), bool)
    shown[owner[owner >= 0]] = True
    return View(
        image=np.clip(image, 0, 1).astype(np.float32),
        pixels=pixels,
        shown=shown,
        pose=_head_pose(model, pixels),
    )


def make_up(model: BodyModel, skin: tuple[float, float, float]) -> Float[np.ndarray, "V 3"]:
    """Colour the vertices: skin with lips and brows, eyes with irises, teeth and tongue."""
    vertices, group = np.asarray(model.vertices, float), np.asarray(model.vertex_group)
    spot = {name: vertices[i] for name, i in zip(LANDMARKS, model.landmarks, strict=True)}
    colors = np.tile(np.array(skin), (len(vertices), 1))

    top, bottom, corner = spot["upper_lip"][1], spot["lower_lip"][1], spot["mouth_left"]
    across, up = vertices[:, 0] / corner[0], vertices[:, 1] - corner[1]
    high = np.where(up > 0, top - corner[1], corner[1] - bottom) + 0.001
    lips = (across**2 + (up / high) ** 2 < 1) & (vertices[:, 2] > corner[2] - 0.01)
    colors[lips & (group == 0)] *= [0.85, 0.6, 0.65]
    for side in ("left", "right"):
        a, b = spot[f"{side}_brow_inner"], spot[f"{side}_brow_outer"]
        along = np.clip((vertices - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)[:, None]
        brow = np.linalg.norm(vertices - (a + along * (b - a)), axis=1) < 0.006
        colors[brow & (group == 0)] *= 0.35
        eye = group == VERTEX_GROUPS.index(f"{side}_eye")
        from_axis = np.linalg.norm(vertices[:, :2] - vertices[eye, :2].mean(0), axis=1)
        front = eye & (vertices[:, 2] > vertices[eye, 2].mean())
        colors[eye] = 0.92
        colors[front & (from_axis < IRIS_RADIUS)] = (0.3, 0.2, 0.12)
        colors[front & (from_axis < _PUPIL_RADIUS)] = 0.03
    colors[np.isin(group, [VERTEX_GROUPS.index(f"{s}_teeth") for s in ("upper", "lower")])] = 0.88
    colors[group == VERTEX_GROUPS.index("tongue")] = (0.7, 0.35, 0.33)
    return colors


def _middle(model: BodyModel) -> Float[np.ndarray, " 3"]:
    """Return the point the camera looks at and heads turn about."""
    eyes = [i for i, name in zip(model.landmarks, LANDMARKS, strict=True) if "_eye_" in name]
    return np.asarray(model.vertices, float)[np.array(eyes)].mean(0) + _INTO_THE_HEAD


def _head_pose(model: BodyModel, pixels: Float[np.ndarray, "V 2"]) -> PoseLandmarks:
    """Name the head's points; those of the body stay zero."""
    points = np.zeros((33, 2))
    at = dict(zip(LANDMARKS, np.asarray(model.landmarks), strict=True))
    for row, name in _NAMED:
        points[row] = pixels[at[name]]
    vertices = np.asarray(model.vertices)
    head = np.flatnonzero(vertices[:, 1] > vertices[at["nose_tip"], 1])
    for row, find in zip(_EARS, (np.argmax, np.argmin), strict=True):
        points[row] = pixels[head[find(vertices[head, 0])]]
    return PoseLandmarks(points, np.zeros(33), np.ones(33), 1.0)
