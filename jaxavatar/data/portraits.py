"""Portraits of people who do not exist, with all that the photo does not show.

A random body in a random look is rendered by the splatter as a photo would show it, and measured
as `perception` would measure it, with small errors. What the reconstruction then places on the
photo, the truth at the same places, and turned views are what the transformer learns from.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pallas_splat
from jaxtyping import Float
from scipy import ndimage

from jaxavatar.body import JOINTS, PARENTS, BodyModel, kinematics, load_template, skin
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.data import looks
from jaxavatar.reconstruction import correspond
from jaxavatar.reconstruction.fit import FOCAL_PER_DIAGONAL, BodyFit
from jaxavatar.reconstruction.query import template_queries
from jaxavatar.reconstruction.surface import Surface, build_surface
from jaxavatar.reconstruction.view import unit, vertex_normals
from jaxavatar.structs import BodyPose, FaceLandmarks, Findings, HandLandmarks, PoseLandmarks

SIDE = 384  # of the photo, pixels
_GAUSSIANS = 40_000


@dataclasses.dataclass(frozen=True)
class Person:
    """A person who does not exist.

    Attributes:
        fit: shape, pose and camera.
        look: hair, skin, clothes.
        light: direction from which light comes, and how much of it is directed.
        surface: the naked body.
        clothed: canonical vertices of what is seen: skin, hair, cloth.
        gaussians: what is seen, posed.
    """

    fit: BodyFit
    look: looks.Look
    light: Float[np.ndarray, " 4"]
    surface: Surface
    clothed: Float[np.ndarray, "V 3"]
    gaussians: pallas_splat.Gaussians


@dataclasses.dataclass(frozen=True)
class Portrait:
    """A photo of a person, and what `perception` and the fit would make of it.

    Attributes:
        image: [0, 1].
        findings: matte and landmarks, with small errors.
        person: the truth on the body that a fit finds: the same look on a slightly wrong body.
    """

    image: Float[np.ndarray, "H W 3"]
    findings: Findings
    person: Person


def random_portrait(seed: int) -> Portrait:
    """Make the portrait of a seed, `SIDE` pixels wide and high."""
    rng = np.random.default_rng([seed, 2])
    model = load_template()
    fit = _framed(model, _fit(model, rng), rng)
    look = looks.random_look(rng)
    light = np.array([rng.normal(0, 0.6), rng.normal(-0.7, 0.3), -1.0])
    light = np.append(light / np.linalg.norm(light), rng.uniform(0.05, 0.3))
    person = _dressed(model, fit, look, light)
    image, alpha = shoot(person, np.eye(4), np.asarray(fit.K), SIDE)
    image = image + _background(rng) * (1 - alpha[..., None])
    image = (image + rng.normal(0, rng.uniform(0, 0.01), image.shape)).clip(0, 1)
    findings = _findings(person, alpha, rng)
    found = _misfit(fit, len(model.betas), rng)
    return Portrait(image, findings, _dressed(model, found, look, light))


def shoot(
    person: Person,
    viewmat: Float[np.ndarray, "4 4"],
    K: Float[np.ndarray, "3 3"],
    side: int,
) -> tuple[Float[np.ndarray, "side side 3"], Float[np.ndarray, "side side"]]:
    """Render a person as posed: RGB times alpha, alpha."""
    camera = jnp.asarray(viewmat, jnp.float32), jnp.asarray(K, jnp.float32)
    image, alpha = _render(person.gaussians, *camera, side)
    return np.asarray(image), np.asarray(alpha)


@functools.partial(jax.jit, static_argnames="side")
def _render(gaussians: pallas_splat.Gaussians, viewmat: jax.Array, K: jax.Array, side: int):
    camera = pallas_splat.Camera(viewmat=viewmat, K=K, width=side, height=side)
    shown = pallas_splat.render(gaussians, camera, background=jnp.zeros(3))
    return shown.image, shown.alpha


def lit_colors(
    look: looks.Look,
    at: looks.Spots,
    light: Float[np.ndarray, " 4"],
    normals: Float[np.ndarray, "N 3"],
) -> Float[np.ndarray, "N 3"]:
    """Return the colours of points with posed normals in some light, [0, 1]."""
    directed = light[3]
    shade = 1 - directed + 1.6 * directed * np.maximum(normals @ light[:3], 0)
    return (looks.colors(look, load_template(), at) * shade[:, None]).clip(0, 1)


def _dressed(
    model: BodyModel, fit: BodyFit, look: looks.Look, light: Float[np.ndarray, " 4"]
) -> Person:
    """Put hair and clothes on a body and cover it with round Gaussians, posed."""
    surface = build_surface(model, fit, None)
    neutral, faces = np.asarray(surface.neutral, float), np.asarray(model.faces)
    every = np.arange(len(neutral))[:, None].repeat(3, 1)
    at = looks.spots(model, every, np.tile([1.0, 0, 0], (len(every), 1)))
    off = looks.standoff(look, model, at)
    clothed = neutral + vertex_normals(neutral, faces) * off[:, None]
    posed = np.asarray(skin(jnp.asarray(clothed), model.weights, surface.transforms)[0], float)
    queries = template_queries(_GAUSSIANS)
    corners, mix = queries.corners, queries.mix[:, :, None]
    normals = unit((vertex_normals(posed, faces)[corners] * mix).sum(1))
    colors = lit_colors(look, looks.spots(model, corners, queries.mix), light, normals)
    gaussians = pallas_splat.Gaussians(
        means=jnp.asarray((posed[corners] * mix).sum(1), jnp.float32),
        quats=jnp.tile(jnp.array([1.0, 0, 0, 0]), (_GAUSSIANS, 1)),
        scales=jnp.asarray(np.tile(_sizes(posed)[:, None], 3), jnp.float32),
        opacities=jnp.full(_GAUSSIANS, 0.97),
        colors=jnp.asarray(colors, jnp.float32),
    )
    return Person(fit, look, light, surface, clothed, gaussians)


def _sizes(posed: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, " N"]:
    """Return deviations that close the surface between the query points, metres."""
    queries = template_queries(_GAUSSIANS)
    corners, template = queries.corners, np.asarray(load_template().vertices, float)
    grown = _area(posed, corners) / np.maximum(_area(template, corners), 1e-12)
    return (0.9 * np.sqrt(queries.area * grown)).clip(0.001, 0.015)


def _area(vertices: Float[np.ndarray, "V 3"], corners: np.ndarray) -> Float[np.ndarray, " N"]:
    a, b, c = (vertices[corners[:, k]] for k in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def _fit(model: BodyModel, rng: np.random.Generator) -> BodyFit:
    """Draw a body and a pose."""
    n_body = len(model.betas)
    n_shapes = correspond.shape_directions(model)[0].shape[0]
    body, face = rng.normal(0, 0.7, n_body), rng.normal(0, 0.8, n_shapes - n_body)
    rotations = rng.normal(0, 0.04, (len(JOINTS), 3))
    rotations[0] = [np.pi, 0, rng.normal(0, 0.02)]
    rotations[JOINTS.index("spine1")] += [0, rng.normal(0, 0.15), 0]
    rotations[JOINTS.index("head")] += rng.normal(0, [0.1, 0.2, 0.06])
    rotations[[JOINTS.index(name) for name in ("jaw", "left_eye", "right_eye")]] = 0
    together = rng.random()
    for side, sign in (("left", 1), ("right", -1)):
        raised = together if rng.random() < 0.7 else rng.random()
        lean = rng.normal(0, 0.12, 3)
        shoulder, elbow = f"{side}_shoulder", f"{side}_elbow"
        rotations[JOINTS.index(shoulder)] = [
            lean[2],
            -sign * 0.4 * raised,
            -sign * (1.15 + lean[0]),
        ]
        rotations[JOINTS.index(elbow)] = [0, -sign * (0.1 + 1.7 * raised + lean[1]), 0]
        rotations[JOINTS.index(f"{side}_wrist")] = [sign * rng.uniform(-0.2, 1.2) * raised, 0, 0]
        for finger in ("index", "middle", "ring", "pinky"):
            curl = rng.uniform(0.05, 0.6)
            for k in (1, 2, 3):
                rotations[JOINTS.index(f"{side}_{finger}{k}"), 2] = -sign * curl
    focal = FOCAL_PER_DIAGONAL * float(np.hypot(SIDE, SIDE))
    return BodyFit(
        pose=BodyPose(
            rotations=jnp.asarray(rotations, jnp.float32),
            translation=jnp.zeros(3),
            expression=jnp.zeros(len(model.expression_names)),
        ),
        betas=jnp.asarray(np.concatenate([body, face.clip(-2, 2)]), jnp.float32),
        hands=jnp.asarray(rng.normal(0, 0.05, 2), jnp.float32),
        K=jnp.array([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1]], jnp.float32),
        error=jnp.zeros(3),
    )


def _framed(model: BodyModel, fit: BodyFit, rng: np.random.Generator) -> BodyFit:
    """Stand the body before the camera, from the waist up or whole, the head near the top."""
    posed = np.asarray(build_surface(model, fit, None).posed, float)
    top, height = posed[:, 1].min(), np.ptp(posed[:, 1])
    shown = (rng.uniform(1.12, 1.3) if rng.random() < 0.3 else rng.uniform(0.4, 0.65)) * height
    focal = float(fit.K[0, 0])
    room = rng.uniform(0.05, 0.12) * shown
    moved = [
        rng.normal(0, 0.03) - np.median(posed[:, 0]),
        room - shown / 2 - top,
        focal * shown / SIDE - np.median(posed[:, 2]),
    ]
    return dataclasses.replace(
        fit, pose=dataclasses.replace(fit.pose, translation=jnp.asarray(moved, jnp.float32))
    )


def _misfit(fit: BodyFit, n_body: int, rng: np.random.Generator) -> BodyFit:
    """Add the errors that a fit to landmarks has."""
    count = fit.betas.shape[0]
    wrong = np.concatenate([rng.normal(0, 0.02, n_body), rng.normal(0, 0.05, count - n_body)])
    turned = rng.normal(0, 0.003, fit.pose.rotations.shape)
    moved = rng.normal(0, [0.0005, 0.0005, 0.003])
    pose = BodyPose(
        rotations=fit.pose.rotations + jnp.asarray(turned, jnp.float32),
        translation=fit.pose.translation + jnp.asarray(moved, jnp.float32),
        expression=fit.pose.expression,
    )
    return dataclasses.replace(fit, pose=pose, betas=fit.betas + jnp.asarray(wrong, jnp.float32))


def _findings(person: Person, alpha: np.ndarray, rng: np.random.Generator) -> Findings:
    """Measure the portrait: the matte with a soft, slightly wrong border, face and hands."""
    border = rng.uniform(-0.15, 0.15) + 0.1 * ndimage.gaussian_filter(
        rng.normal(0, 6, alpha.shape), 6
    )
    matte = (ndimage.gaussian_filter(alpha, rng.uniform(0.3, 1.2)) + border * (alpha > 0.02)).clip(
        0, 1
    )
    K = np.asarray(person.fit.K, float)

    def project(points: np.ndarray) -> np.ndarray:
        return points[:, :2] / points[:, 2:] * K[0, 0] + K[:2, 2]

    corners, mix = load_face_landmarks()
    posed = np.asarray(person.surface.posed, float)
    face = project((posed[corners] * mix[:, :, None]).sum(1)) + rng.normal(0, 0.3, (478, 2))
    local = kinematics.local_transforms(person.fit.pose.rotations, person.fit.pose.translation)
    joints = project(
        np.asarray(kinematics.posed_joints(person.surface.joints, local, PARENTS), float)
    )
    hands = []
    for side in ("left", "right"):
        rows = [k for k, name in enumerate(JOINTS) if name.startswith(side) and name[-1] in "123"]
        points = joints[[JOINTS.index(f"{side}_wrist"), *rows]]
        inside = ((points > 0) & (points < SIDE)).all(1).mean()
        found = inside > 0.8 and rng.random() < 0.85
        full = np.concatenate([points, points[-5:]])
        hands.append(HandLandmarks(full, np.zeros(21), 1.0) if found else None)
    pose = PoseLandmarks(np.zeros((33, 2)), np.zeros(33), np.ones(33), 1.0)
    marks = FaceLandmarks(face, np.zeros(478), 1.0)
    return Findings(pose, marks, hands[0], hands[1], matte, ())


def _background(rng: np.random.Generator) -> Float[np.ndarray, "H W 3"]:
    """Draw a studio wall: a colour, often grey or white, with a soft gradient."""
    vivid = rng.choice([0.0, 0.2, 0.6])
    base = (1 - vivid) * rng.uniform(0.3, 1.0) + vivid * rng.random(3)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    slope = rng.normal(0, 0.15, 2)
    return (base + (slope[0] * x + slope[1] * y)[..., None]).clip(0, 1)
