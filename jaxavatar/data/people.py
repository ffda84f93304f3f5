"""Synthetic people: random bodies of the template in random clothes, as avatars."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxavatar.body import JOINTS, VERTEX_GROUPS, BodyModel, load_template
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.data import looks
from jaxavatar.data.portraits import lit_colors
from jaxavatar.reconstruction.assemble import assemble
from jaxavatar.reconstruction.correspond import shape_directions
from jaxavatar.reconstruction.fit import BodyFit
from jaxavatar.reconstruction.place import Placement, place_everywhere
from jaxavatar.reconstruction.surface import build_surface
from jaxavatar.structs import Avatar, BodyPose

_SIZE = (512, 512)
_DISTANCE = 2.0  # metres from the camera
_SKIN = np.array([[0.95, 0.80, 0.70], [0.78, 0.58, 0.45], [0.48, 0.32, 0.24]])
_HAIR = np.array([[0.08, 0.06, 0.05], [0.35, 0.22, 0.12], [0.75, 0.6, 0.35], [0.55, 0.5, 0.48]])
_LIPS = (61, 146, 91, 84, 17, 314, 321, 375, 291, 185, 39, 37, 0, 267, 269, 409, 13, 14, 82, 312)
_BROWS = (70, 63, 105, 66, 107, 55, 65, 52, 300, 293, 334, 296, 336, 285, 295, 282)


def random_person(seed: int, budget: tuple[int, int, int]) -> Avatar:
    """Make a person who does not exist.

    Args:
        seed: decides body, face, clothes, hair, skin and how the arms are held.
        budget: number of Gaussians on face, hands and body; the same for all avatars of a batch.

    Returns:
        An avatar that stands in front of the camera of `K`, arms hanging or half raised.
    """
    rng = np.random.default_rng(seed)
    model = load_template()
    fit = _random_fit(model, rng)
    surface = build_surface(model, fit, None)
    placement = place_everywhere(model, surface, budget, rng)
    avatar, _ = assemble(model, fit, surface, placement, _paint(model, placement, rng), _SIZE)
    return avatar


def random_actor(seed: int, budget: tuple[int, int, int]) -> Avatar:
    """Make a person with hair and clothes of `looks`, in some light: for pictures of the face.

    Arguments and result are those of `random_person`.
    """
    rng = np.random.default_rng([seed, 3])
    model = load_template()
    fit = _random_fit(model, rng)
    surface = build_surface(model, fit, None)
    placement = place_everywhere(model, surface, budget, rng)
    look = looks.random_look(rng)
    spots = looks.spots(model, placement.corners, placement.mix)
    hair = placement.normals * looks.standoff(look, model, spots)[:, None]
    placement = dataclasses.replace(placement, shift=hair)
    towards = np.array([rng.normal(0, 0.5), -0.7, -1.0])
    light = np.append(towards / np.linalg.norm(towards), rng.uniform(0.05, 0.3))
    colors = lit_colors(look, spots, light, placement.normals).astype(np.float32)
    avatar, _ = assemble(model, fit, surface, placement, colors, _SIZE)
    return avatar


def _random_fit(model: BodyModel, rng: np.random.Generator) -> BodyFit:
    """Draw a shape and a resting pose, and stand the person before the camera."""
    n_body = len(model.betas)
    n_shapes = shape_directions(model)[0].shape[0]
    betas = np.concatenate(
        [rng.normal(0, 0.7, n_body), np.clip(rng.normal(0, 0.8, n_shapes - n_body), -2, 2)]
    )
    rotations = rng.normal(0, 0.03, (len(JOINTS), 3))
    rotations[0] = [np.pi, 0, rng.normal(0, 0.15)]
    rotations[JOINTS.index("jaw")] = 0
    raised = rng.uniform(0, 1)
    for side, sign in (("left", 1), ("right", -1)):
        lean = rng.normal(0, 0.08, 2)
        rotations[JOINTS.index(f"{side}_shoulder")] = [0, 0, -sign * (1.25 + lean[0])]
        rotations[JOINTS.index(f"{side}_elbow")] = [0, -sign * (0.2 + 1.5 * raised + lean[1]), 0]
    focal = 1.5 * float(np.hypot(*_SIZE))
    K = np.array([[focal, 0, _SIZE[1] / 2], [0, focal, _SIZE[0] / 2], [0, 0, 1]])
    # The pelvis joint turns in place; the chest comes to the middle of the picture.
    chest = np.asarray(model.joints)[JOINTS.index("spine3")]
    pelvis = np.asarray(model.joints)[0]
    translation = np.array([0, (chest - pelvis)[1] + 0.1 - pelvis[1], _DISTANCE - pelvis[2]])
    return BodyFit(
        pose=BodyPose(
            rotations=jnp.asarray(rotations, jnp.float32),
            translation=jnp.asarray(translation, jnp.float32),
            expression=jnp.zeros(len(model.expression_names)),
        ),
        betas=jnp.asarray(betas, jnp.float32),
        hands=jnp.zeros(2),
        K=jnp.asarray(K, jnp.float32),
        error=jnp.zeros(3),
    )


def _paint(
    model: BodyModel, placement: Placement, rng: np.random.Generator
) -> Float[np.ndarray, "N 3"]:
    """Colour skin, lips, brows, eyes, hair, shirt and trousers by where they are."""
    vertices = np.asarray(model.vertices)
    points = (vertices[placement.corners] * placement.mix[:, :, None]).sum(1)
    owner = np.asarray(model.weights)[placement.corners[:, 0]].argmax(1)
    names = np.array(JOINTS)[owner]
    skin = _SKIN[rng.integers(len(_SKIN))] + rng.normal(0, 0.03, 3)
    hair = _HAIR[rng.integers(len(_HAIR))] + rng.normal(0, 0.02, 3)
    shirt, trousers = rng.uniform(0.1, 0.9, (2, 3))

    colors = np.tile(skin, (len(points), 1))
    bare = np.isin(names, ("head", "neck", "jaw", "left_eye", "right_eye")) | np.array(
        ["wrist" in n or (n[-1].isdigit() and not n.startswith("spine")) for n in names]
    )
    legs = np.isin(names, [n for n in JOINTS if n.split("_")[-1] in ("hip", "knee", "ankle")])
    feet = np.isin(names, ("left_foot", "right_foot"))
    sleeves = np.array([n.endswith("elbow") for n in names]) & bool(rng.integers(2))
    colors[~bare & ~sleeves] = shirt
    colors[legs] = trousers
    colors[feet] = trousers * 0.4

    corners, mix = load_face_landmarks()
    marks = (vertices[corners] * mix[:, :, None]).sum(1)
    forehead, ear = marks[10], marks[234]
    head = names == "head"
    colors[head & ((points[:, 1] > forehead[1] + 0.01) | (points[:, 2] < ear[2] - 0.03))] = hair
    for ids, color, reach in (
        (_LIPS, skin * [0.95, 0.55, 0.6], 0.0045),
        (_BROWS, hair * 0.8, 0.005),
    ):
        near = np.linalg.norm(points[:, None] - marks[list(ids)], axis=2).min(1) < reach
        colors[near & bare] = color
    group = np.asarray(model.vertex_group)[placement.corners[:, 0]]
    for name, color in (
        ("upper_teeth", (0.9, 0.88, 0.82)),
        ("lower_teeth", (0.85, 0.83, 0.78)),
        ("tongue", (0.6, 0.3, 0.3)),
    ):
        colors[group == VERTEX_GROUPS.index(name)] = color
    for name, iris in (("left_eye", 473), ("right_eye", 468)):
        eye = group == VERTEX_GROUPS.index(name)
        colors[eye] = 0.92
        colors[eye & (np.linalg.norm(points - marks[iris], axis=1) < 0.006)] = (0.2, 0.15, 0.1)
    shade = 1.0 + 0.15 * placement.normals @ np.array([-0.4, -0.8, -0.4])
    return np.clip(colors * shade[:, None], 0, 1).astype(np.float32)
