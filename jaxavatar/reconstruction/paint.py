"""Colour Gaussians: from the photo where it sees them, from like surroundings elsewhere."""

import numpy as np
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial import KDTree

from jaxavatar.body import JOINTS, LEFT_HAND, RIGHT_HAND, VERTEX_GROUPS, BodyModel
from jaxavatar.reconstruction.pixels import nearest
from jaxavatar.reconstruction.place import Placement

_NEIGHBOURS = 48
_OTHER_SIDE = 0.02  # metres by which the mirrored side is farther
# Relative to the face's brightness, so that a dark photo does not get glowing teeth.
_INSIDE_COLORS = {
    "left_eye": (1.15, 1.1, 1.1),
    "right_eye": (1.15, 1.1, 1.1),
    "upper_teeth": (1.2, 1.12, 1.0),
    "lower_teeth": (1.1, 1.02, 0.9),
    "tongue": (0.75, 0.38, 0.36),
}
_CAVITY = (0.28, 0.1, 0.09)


def paint(
    model: BodyModel,
    placement: Placement,
    canonical: Float[np.ndarray, "N 3"],
    photo: Float[np.ndarray, "H W 3"],
    matte: Float[np.ndarray, "H W"],
) -> Float[np.ndarray, "N 3"]:
    """Return a first colour for every Gaussian.

    The photo's colours come from well inside the matte, so that no background bleeds in. Unseen
    surface takes the mean of its nearest seen neighbours in the canonical pose, on either side of
    the mirror plane; front and back count as near, since cloth usually goes round. Teeth, tongue,
    eyeballs and the mouth's cavity have colours of their own.

    Args:
        model: the body.
        placement: from `place`.
        canonical: canonical centres, metres.
        photo: [0, 1].
        matte: coverage, [0, 1].
    """
    clean = bleed_free(photo, matte)
    seen = placement.seen
    colors = np.zeros((len(seen), 3), np.float32)
    x, y = placement.pixel[seen].T
    colors[seen] = np.stack(
        [
            ndimage.map_coordinates(clean[..., c], [y - 0.5, x - 0.5], order=1, mode="nearest")
            for c in range(3)
        ],
        axis=1,
    )
    part = _parts(model, placement)
    group = np.asarray(model.vertex_group)[placement.corners[:, 0]]
    inner = mouth_lining(model)[placement.corners[:, 0]] & ~seen
    skin = seen & (group == 0)
    for k in range(3):
        todo = ~seen & (part == k)
        source = skin & (part == k)
        if not todo.any():
            continue
        if source.sum() < 50:  # this part is not in the photo at all: hands take the face's skin
            source = skin & (part == (0 if k == 1 else 2))
            colors[todo] = np.median(colors[source], axis=0)
            continue
        colors[todo] = _from_neighbours(canonical[todo], canonical[source], colors[source], part=k)
        if k == 0:
            tone = np.median(colors[skin & (placement.region == 0)], axis=0)
            back, hair = _hair(canonical[todo], canonical[source], colors[source], tone)
            if hair.sum() > 50:
                colors[np.flatnonzero(todo)[back]] = _from_neighbours(
                    canonical[todo][back], canonical[source][hair], colors[source][hair], part=k
                )

    face = skin & (placement.region == 0)
    light = float(np.median(colors[face].mean(1))) if face.any() else 0.6
    for name, color in _INSIDE_COLORS.items():
        hidden = ~seen & (group == VERTEX_GROUPS.index(name))
        colors[hidden] = light * np.asarray(color)
    colors[inner & (group == 0)] = light * np.asarray(_CAVITY)
    return np.clip(colors, 0.0, 1.0)


def bleed_free(photo: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """Replace pixels outside and at the soft border of the matte by the nearest covered ones."""
    solid = np.asarray(ndimage.binary_erosion(matte > 0.9, iterations=2))
    if not solid.any():
        solid = matte > 0.5
    _, index = nearest(solid)
    return photo[tuple(index)]


def _parts(model: BodyModel, placement: Placement) -> np.ndarray:
    """Return 0 for head and neck, 1 for hands, 2 for the rest."""
    weights = np.asarray(model.weights)
    head = [JOINTS.index(n) for n in ("neck", "head", "jaw", "left_eye", "right_eye")]
    hands = [JOINTS.index("left_wrist"), JOINTS.index("right_wrist")]
    hands += [*range(LEFT_HAND.start, LEFT_HAND.stop), *range(RIGHT_HAND.start, RIGHT_HAND.stop)]
    at = placement.corners[:, 0]
    part = np.full(len(at), 2)
    part[weights[at][:, head].sum(1) > 0.5] = 0
    part[weights[at][:, hands].sum(1) > 0.5] = 1
    return part


def mouth_lining(model: BodyModel) -> np.ndarray:
    """Return which skin vertices line the mouth: they lie behind the lips, inside the head."""
    vertices = np.asarray(model.vertices)
    group = np.asarray(model.vertex_group)
    rows = [VERTEX_GROUPS.index("upper_teeth"), VERTEX_GROUPS.index("lower_teeth")]
    teeth = vertices[np.isin(group, rows)]
    low, high = teeth.min(0) - [0.008, 0.012, 0.03], np.add(teeth.max(0), [0.008, 0.012, 0.001])
    return (group == 0) & ((vertices > low) & (vertices < high)).all(1)


def _from_neighbours(
    points: np.ndarray, source: np.ndarray, colors: np.ndarray, part: int
) -> np.ndarray:
    """Take the median of the nearest seen colours; the other side of the body counts as near.

    The median keeps out what does not belong, such as a finger in front of a shirt.
    """
    squash = np.array([1.0, 1.0, 0.6 if part == 0 else 0.3])
    mirrored = source * [-1, 1, 1] + [0, 0, _OTHER_SIDE]
    tree = KDTree(np.concatenate([source, mirrored]) * squash)
    _, index = tree.query(points * squash, k=_NEIGHBOURS)
    return np.median(colors[index % len(source)], axis=1)


def _hair(
    points: np.ndarray, source: np.ndarray, colors: np.ndarray, skin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which points of the head hair would cover and which sources may colour them.

    The back of the head, above the neck, is hair where the photo shows any; the face's skin must
    not creep around the ears.
    """
    top, bottom = source[:, 1].max(), source[:, 1].min()
    middle = 0.5 * (source[:, 2].max() + points[:, 2].min())
    back = (points[:, 2] < middle) & (points[:, 1] > bottom + 0.25 * (top - bottom))
    unlike_skin = np.linalg.norm(colors - skin, axis=1) > 0.25
    return back, unlike_skin
