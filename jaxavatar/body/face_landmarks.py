"""Where MediaPipe's 478 face landmarks lie on the template."""

import functools
import importlib.resources

import numpy as np
from jaxtyping import Float, Int


@functools.cache
def load_face_landmarks() -> tuple[Int[np.ndarray, "478 3"], Float[np.ndarray, "478 3"]]:
    """Load the landmarks as points on triangles of the template.

    They were found by running the landmark network on renderings of the template
    (`experiments/assets/build_face_landmarks.py`). Inner-lip points lie on the edges that touch
    when the mouth is closed; the last ten are the irises, on the eyeballs.

    Returns:
        Vertex indices of each landmark's triangle, and weights of its corners (they sum to one).
    """
    path = importlib.resources.files("jaxavatar.body") / "data" / "face_landmarks.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        return data["corners"].astype(np.int64), data["mix"].astype(np.float32)
