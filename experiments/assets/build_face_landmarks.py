"""Build `jaxavatar/body/data/face_landmarks.npz`: where the 478 face landmarks lie on the template.

    python -m experiments.assets.build_face_landmarks

The landmark network looks at renderings of the template and of other heads of its shape space,
from several sides, in several lights and skins. Each landmark becomes the spot of the skin that is
nearest to its detections over all pictures, and the left and right of the face are made alike.
Inner lips then lie on the line where the closed lips part, irises on the front of the eyeballs.
Takes about a minute; prints how far the detections are, also in pictures of other heads, and the
SHA-256.
"""

import hashlib
import pathlib

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from experiments.assets import face_spots, head_views
from jaxavatar.body import BodyModel, load_template, shaped
from jaxavatar.files import replacing
from jaxavatar.perception import face

OUT = pathlib.Path(__file__).parents[2] / "jaxavatar/body/data/face_landmarks.npz"
SKINS = ((0.85, 0.65, 0.55), (0.62, 0.45, 0.36), (0.92, 0.76, 0.68))
LIGHTS = ((0.5, 0.4, 0.8), (-0.5, 0.4, 0.8), (0.0, 0.6, 0.8))
YAWS = (-0.4, -0.2, 0.0, 0.2, 0.4)
N_HEADS = 9  # the first is the template itself
VARIETY = 0.7  # standard deviations of the other heads' shapes
MESH = 468  # the other ten are the irises
MIRROR = np.array([-1.0, 1.0, 1.0])


def main() -> None:
    """Look, carry back, write the asset, print its hash."""
    model = load_template()
    pixels, detected, shown = look(model, np.random.default_rng(0))
    corners, mix = build(model, pixels, detected, shown)
    others, theirs, _ = look(model, np.random.default_rng(1))
    for name, where, found in (("these", pixels, detected), ("other", others, theirs)):
        error = distances(where, corners, mix, found)
        print(f"in {name} pictures: median {np.median(error):.2f}, mean {error.mean():.2f} pixels")
    with replacing(OUT) as temporary:
        np.savez_compressed(temporary, corners=corners.astype(np.int16), mix=mix.astype(np.float32))
    print(f"{OUT}: sha256 {hashlib.sha256(OUT.read_bytes()).hexdigest()}")


def build(
    model: BodyModel,
    pixels: Float[np.ndarray, "P V 2"],
    detected: Float[np.ndarray, "P 468 2"],
    shown: Bool[np.ndarray, " F"],
) -> tuple[Int[np.ndarray, "478 3"], Float[np.ndarray, "478 3"]]:
    """Return the triangle of each landmark and the weights of its corners."""
    vertices, faces = np.asarray(model.vertices, float), np.asarray(model.faces)
    skin = faces[shown & (np.asarray(model.vertex_group)[faces] == 0).all(1)]
    found, weights = best_spots(pixels, detected, skin)
    points = (vertices[found] * weights[:, :, None]).sum(1)
    partner = mirror_partners(detected)
    points = (points + points[partner] * MIRROR) / 2

    corners, mix = np.zeros((478, 3), int), np.zeros((478, 3))
    corners[:MESH], mix[:MESH] = face_spots.nearest(points, vertices, skin)
    for pair, place in face_spots.parting_line(model, points).items():
        for k, (corner, weight) in zip(pair, place, strict=True):
            corners[k], mix[k] = corner, weight
    for eye, first in face_spots.IRISES.items():
        rows = slice(first, first + 5)
        corners[rows], mix[rows] = face_spots.iris(model, eye)

    # One half of the face stands for both, so that the template's symmetry is kept.
    other = np.asarray(KDTree(vertices).query(vertices * MIRROR)[1])
    for k in np.flatnonzero(partner > np.arange(MESH)):
        corners[partner[k]], mix[partner[k]] = other[corners[k]], mix[k]
    return corners, mix


def look(
    model: BodyModel, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "P V 2"], Float[np.ndarray, "P 468 2"], Bool[np.ndarray, " F"]]:
    """Find the landmarks in pictures of several heads.

    Returns:
        Per picture where the vertices are and where the network has the landmarks, pixels; and
        which triangles at least a fifth of the pictures show.
    """
    pixels, detected, shown = [], [], []
    for head in range(N_HEADS):
        identity = VARIETY * rng.normal(size=len(model.identity_dirs)) * (head > 0)
        vertices = np.asarray(shaped(model, identity=jnp.asarray(identity))[0], float)
        colors = head_views.make_up(model, SKINS[head % 3])
        for yaw in YAWS:
            light = LIGHTS[(head + head // 3) % 3]
            view = head_views.render(model, vertices, colors, yaw, np.array(light))
            landmarks = face.find(view.image, view.pose)
            if landmarks is None:
                raise RuntimeError(f"no face found in head {head}, turned by {yaw} rad")
            pixels.append(view.pixels)
            detected.append(landmarks.points[:MESH])
            shown.append(view.shown)
    return np.stack(pixels), np.stack(detected), np.mean(shown, axis=0) > 0.2


def best_spots(
    pixels: Float[np.ndarray, "P V 2"], detected: Float[np.ndarray, "P 468 2"], faces: np.ndarray
) -> tuple[Int[np.ndarray, "468 3"], Float[np.ndarray, "468 3"]]:
    """Return for each landmark the spot of some triangles with the least sum of distances.

    The sum, rather than that of the squares, lets the one or two sides from which a spot at the
    face's outline is hidden not matter.
    """
    corners, mix = np.zeros((MESH, 3), int), np.zeros((MESH, 3))
    used, lattice = np.unique(faces), face_spots.barycentric_lattice()
    for k in range(MESH):
        total = np.linalg.norm(pixels[:, used] - detected[:, k, None], axis=2).sum(0)
        close = used[np.argsort(total)[:8]]
        around = faces[np.isin(faces, close).any(1)]
        spots = np.einsum("lc,pkca->pkla", lattice, pixels[:, around])
        total = np.linalg.norm(spots - detected[:, k, None, None], axis=3).sum(0)
        which, spot = np.unravel_index(total.argmin(), total.shape)
        corners[k], mix[k] = around[which], lattice[spot]
    return corners, mix


def distances(pixels, corners, mix, detected) -> Float[np.ndarray, "P 468"]:
    """Return how far the landmarks are from their detections in every picture, pixels."""
    points = (pixels[:, corners[:MESH]] * mix[:MESH, :, None]).sum(2)
    return np.linalg.norm(points - detected, axis=2)


def mirror_partners(detected: Float[np.ndarray, "P 468 2"]) -> Int[np.ndarray, " 468"]:
    """Return which landmark is the mirror image of which; those on the midline are their own."""
    seen = detected.reshape(N_HEADS, len(YAWS), MESH, 2).mean(0)
    mirrored = (seen[::-1] - [head_views.SIDE, 0]) * [-1, 1]
    cost = (np.linalg.norm(seen[:, :, None] - mirrored[:, None], axis=3) ** 2).sum(0)
    # Close to the corners of the mouth both lips coincide: there the order along the lip decides.
    for left, right in zip(face_spots.PARTING, face_spots.PARTING[::-1], strict=True):
        cost[left, :], cost[:, right] = np.inf, np.inf
        cost[left, right] = 0.0
    partner = linear_sum_assignment(cost + cost.T)[1]
    if not np.array_equal(partner[partner], np.arange(MESH)):
        raise RuntimeError("the landmarks found do not pair up across the midline")
    return partner


if __name__ == "__main__":
    main()
