"""Find the template's landmark vertices from its geometry and its face units."""

import numpy as np
from jaxtyping import Float, Int

from jaxavatar.body.skeleton import JOINTS

EYE_RADIUS_SLACK = 1.25  # the lid's margin lies within this many eyeball radii of its centre
TOUCHING = 0.004  # metres between the two lips where they touch


def find_landmarks(
    vertices: Float[np.ndarray, "V 3"],
    joints: Float[np.ndarray, "J 3"],
    weights: Float[np.ndarray, "V J"],
    skin: Int[np.ndarray, " S"],
    eyes: dict[str, Int[np.ndarray, " n"]],
    units: dict[str, Float[np.ndarray, "V 3"]],
) -> dict[str, int]:
    """Pick one vertex for each landmark.

    Args:
        vertices: canonical metres.
        joints: canonical metres.
        weights: skinning weights.
        skin: the vertices of the outer mesh, without eyeballs, teeth and tongue.
        eyes: vertices of the "left" and the "right" eyeball.
        units: displacements of the face units.

    Returns:
        Vertex of each landmark by name.
    """
    return (
        _mouth(vertices, skin, units)
        | _eyes(vertices, joints, skin, eyes)
        | _brows(vertices, units)
        | _fingertips(vertices, joints, weights)
    )


def _mouth(
    vertices: Float[np.ndarray, "V 3"],
    skin: Int[np.ndarray, " S"],
    units: dict[str, Float[np.ndarray, "V 3"]],
) -> dict[str, int]:
    midline = skin[np.abs(vertices[skin, 0]) < 1e-4]
    opening = -units["jawOpen"][:, 1]
    nose = _top(midline, vertices[midline, 2] - 10 * (opening[midline] > 1e-3))
    below = midline[vertices[midline, 1] < vertices[nose, 1]]
    # The lips touch where an opening jaw separates neighbours; the outermost pair is the seam.
    upper, lower = below[opening[below] < 0.004], below[opening[below] > 0.015]
    gap = np.linalg.norm(vertices[upper][:, None] - vertices[lower][None], axis=-1)
    ahead = np.where(gap < TOUCHING, vertices[upper][:, None, 2], -np.inf)
    i, j = np.unravel_index(np.argmax(ahead), ahead.shape)
    upper_inner, lower_inner = upper[i], lower[j]

    def near(side: Int[np.ndarray, " n"], seam: int) -> Int[np.ndarray, " n"]:
        return side[np.abs(vertices[side, 1] - vertices[seam, 1]) < 0.012]

    upper, lower = near(upper, upper_inner), near(lower, lower_inner)
    chin = midline[opening[midline] > 0.9 * opening[midline].max()]
    corner_pull = {side: units[f"mouthStretch{side.title()}"] for side in ("left", "right")}
    seam_height = vertices[upper_inner, 1]
    corners = {}
    for side, sign in (("left", 1), ("right", -1)):
        pull = sign * corner_pull[side][:, 0]
        around = skin[np.abs(vertices[skin, 1] - seam_height) < 0.012]
        corners[f"mouth_{side}"] = _top(around, pull[around])
    return {
        **corners,
        "upper_lip": _top(upper, vertices[upper, 2]),
        "upper_lip_inner": int(upper_inner),
        "lower_lip_inner": int(lower_inner),
        "lower_lip": _top(lower, vertices[lower, 2]),
        "nose_tip": nose,
        "chin": _top(chin, vertices[chin, 2]),
    }


def _eyes(
    vertices: Float[np.ndarray, "V 3"],
    joints: Float[np.ndarray, "J 3"],
    skin: Int[np.ndarray, " S"],
    eyes: dict[str, Int[np.ndarray, " n"]],
) -> dict[str, int]:
    found = {}
    for side, sign in (("left", 1), ("right", -1)):
        centre = joints[JOINTS.index(f"{side}_eye")]
        radius = np.linalg.norm(vertices[eyes[side]] - centre, axis=1).max()
        offset = vertices[skin] - centre
        distance = np.linalg.norm(offset, axis=1)
        lids = (distance < EYE_RADIUS_SLACK * radius) & (offset[:, 2] > 0.3 * radius)
        margin, offset = skin[lids], offset[lids]
        middle = np.abs(offset[:, 0]) < 0.3 * radius
        found |= {
            f"{side}_eye_outer": _top(margin, sign * offset[:, 0]),
            f"{side}_eye_inner": _top(margin, -sign * offset[:, 0]),
            f"{side}_eye_upper": _top(margin[middle], offset[middle, 1]),
            f"{side}_eye_lower": _top(margin[middle], -offset[middle, 1]),
        }
    return found


def _brows(
    vertices: Float[np.ndarray, "V 3"], units: dict[str, Float[np.ndarray, "V 3"]]
) -> dict[str, int]:
    found = {}
    for side, sign in (("left", 1), ("right", -1)):
        own = np.flatnonzero(sign * vertices[:, 0] > 0.01)
        found[f"{side}_brow_inner"] = _top(own, units["browInnerUp"][own, 1])
        found[f"{side}_brow_outer"] = _top(own, units[f"browOuterUp{side.title()}"][own, 1])
    return found


def _fingertips(
    vertices: Float[np.ndarray, "V 3"],
    joints: Float[np.ndarray, "J 3"],
    weights: Float[np.ndarray, "V J"],
) -> dict[str, int]:
    found = {}
    for side in ("left", "right"):
        for finger in ("thumb", "index", "middle", "ring", "pinky"):
            last = JOINTS.index(f"{side}_{finger}3")
            own = np.flatnonzero(weights[:, last] > 0.9)
            reach = (vertices[own] - joints[last]) @ (joints[last] - joints[last - 1])
            found[f"{side}_{finger}_tip"] = _top(own, reach)
    return found


def _top(candidates: Int[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> int:
    return int(candidates[np.argmax(score)])
