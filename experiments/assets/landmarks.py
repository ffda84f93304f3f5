"""The template's landmark vertices, picked by eye on the base mesh."""

import numpy as np
from jaxtyping import Float, Int

from jaxavatar.body.skeleton import LANDMARKS

# Vertices of the base mesh, on the midline and on the person's left.
_PICKED = {
    "mouth_left": 7185,
    "upper_lip": 466,
    "upper_lip_inner": 474,
    "lower_lip_inner": 523,
    "lower_lip": 495,
    "nose_tip": 5054,
    "chin": 5162,
    "left_eye_outer": 6805,
    "left_eye_inner": 6851,
    "left_eye_upper": 6785,
    "left_eye_lower": 6828,
    "left_brow_inner": 6983,
    "left_brow_outer": 6999,
    "left_index_tip": 8595,
    "left_middle_tip": 8787,
    "left_pinky_tip": 9171,
    "left_ring_tip": 8982,
    "left_thumb_tip": 9348,
}


def landmark_vertices(
    kept: Int[np.ndarray, " S"], vertices: Float[np.ndarray, "S 3"]
) -> Int[np.ndarray, " K"]:
    """Return the vertices of `LANDMARKS`; the right side mirrors the left.

    Args:
        kept: base-mesh index of each vertex, sorted.
        vertices: the same vertices, canonical metres, mirror-symmetric about x = 0.
    """
    found = {name: int(np.searchsorted(kept, vertex)) for name, vertex in _PICKED.items()}
    for name, vertex in list(found.items()):
        mirrored = np.linalg.norm(vertices - vertices[vertex] * [-1, 1, 1], axis=1)
        found[name.replace("left", "right")] = int(mirrored.argmin())
    return np.array([found[name] for name in LANDMARKS])
