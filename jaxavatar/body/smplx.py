"""Read a user's SMPL-X model file into a `BodyModel`.

The model (Pavlakos et al., "Expressive Body Capture", CVPR 2019) has its own licence and is
downloaded by the user from https://smpl-x.is.tue.mpg.de. Files of version 1.1 hold 300 shape
and 100 expression directions in `shapedirs`, those of 2020 ten and ten. Besides plain arrays they
hold pickled tables of part names, which are never touched: reading a file runs no code from it.
"""

import os
import pathlib
import zipfile
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxavatar.body.skeleton import JOINTS, LEFT_HAND, PARENTS, RIGHT_HAND
from jaxavatar.body.template import BodyModel
from jaxavatar.errors import InputError

N_EXPRESSIONS = 10
_SPLITS = {400: 300, 20: 10}  # width of shapedirs -> how many of them are shape
_KEYS = (
    "v_template",
    "shapedirs",
    "posedirs",
    "J_regressor",
    "weights",
    "kintree_table",
    "f",
    "hands_meanl",
    "hands_meanr",
)
_MOVED = 5e-5  # metres: a vertex that an expression moves less than this is not face
_REMEDY = "use SMPLX_NEUTRAL.npz of SMPL-X 1.1 from https://smpl-x.is.tue.mpg.de"


def load_smplx(path: str | os.PathLike[str], n_betas: int = 10) -> BodyModel:
    """Load an SMPL-X `.npz`.

    Posing the result with `pose_vertices` is SMPL-X's own function, with two differences of
    convention: poses are relative to flat hands (add `hand_mean` to finger rotations that are
    relative to the mean hand), and expressions are the first ten principal components instead of
    face units. SMPL-X has no teeth, tongue or known landmarks: those fields are empty.

    Args:
        path: the model file.
        n_betas: how many shape directions to keep.

    Raises:
        InputError: no such file, another kind of file, or arrays that are missing, pickled or of
            the wrong shape.
    """
    arrays = _read(pathlib.Path(path))
    _check_shapes(path, arrays)
    shapedirs = arrays["shapedirs"]
    split = _SPLITS[shapedirs.shape[2]]
    if not 0 <= n_betas <= split:
        raise InputError(f"{path} has {split} betas, not {n_betas}: ask for fewer")
    regressor, weights = arrays["J_regressor"], arrays["weights"]
    # float64 until here, so that joints are exact to float32.
    betas = np.moveaxis(shapedirs[:, :, :n_betas], 2, 0)
    expressions = np.moveaxis(shapedirs[:, :, split : split + N_EXPRESSIONS], 2, 0)
    vertex_group = _vertex_groups(weights)
    n_vertices = len(weights)
    hands = np.concatenate([arrays["hands_meanl"], arrays["hands_meanr"]]).reshape(30, 3)

    def as_float(array: np.ndarray) -> jnp.ndarray:
        return jnp.asarray(array, jnp.float32)

    return BodyModel(
        vertices=as_float(arrays["v_template"]),
        faces=jnp.asarray(arrays["f"].astype(np.int32)),
        joints=as_float(regressor @ arrays["v_template"]),
        weights=as_float(weights / weights.sum(1, keepdims=True)),
        shape_dirs=jnp.zeros((0, n_vertices, 3)),
        shape_joints=jnp.zeros((0, len(JOINTS), 3)),
        betas=as_float(betas),
        beta_joints=as_float(regressor @ betas),
        identity_dirs=jnp.zeros((0, n_vertices, 3)),
        identity_joints=jnp.zeros((0, len(JOINTS), 3)),
        expression_dirs=as_float(expressions),
        expression_joints=as_float(regressor @ expressions),
        pose_dirs=as_float(np.moveaxis(arrays["posedirs"], 2, 0)),
        hand_mean=as_float(hands),
        uv=as_float(arrays.get("vt", np.zeros((0, 2)))),
        faces_uv=jnp.asarray(arrays.get("ft", np.zeros((0, 3))).astype(np.int32)),
        vertex_group=jnp.asarray(vertex_group),
        region=jnp.asarray(_regions(expressions, vertex_group, weights)),
        landmarks=jnp.zeros((0,), jnp.int32),
        parents=PARENTS,
        joint_names=JOINTS,
        shape_names=(),
        expression_names=tuple(f"expression_{k}" for k in range(N_EXPRESSIONS)),
    )


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the arrays that are needed, and the texture coordinates if there are any."""
    if not path.is_file():
        raise InputError(f"there is no SMPL-X model at {path}: {_REMEDY}")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not an .npz file (pickles are not read): {_REMEDY}")
    with np.load(path, allow_pickle=False) as file:
        missing = [key for key in _KEYS if key not in file]
        if missing:
            raise InputError(f"{path} lacks {', '.join(missing)}: {_REMEDY}")
        textured = [key for key in ("vt", "ft") if "vt" in file and "ft" in file]
        arrays = {}
        for key in (*_KEYS, *textured):
            try:
                arrays[key] = np.asarray(file[key])
            except ValueError as error:  # numpy's refusal to unpickle
                raise InputError(f"{key} in {path} is pickled or damaged: {_REMEDY}") from error
    indices = ("f", "ft", "kintree_table")
    return {k: a if k in indices else a.astype(np.float64) for k, a in arrays.items()}


def _check_shapes(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    n_vertices = len(arrays["v_template"])
    n_joints = len(JOINTS)
    width = arrays["shapedirs"].shape[-1] if arrays["shapedirs"].ndim == 3 else 0
    expected = {
        "v_template": (n_vertices, 3),
        "shapedirs": (n_vertices, 3, width if width in _SPLITS else max(_SPLITS)),
        "posedirs": (n_vertices, 3, 9 * (n_joints - 1)),
        "J_regressor": (n_joints, n_vertices),
        "weights": (n_vertices, n_joints),
        "kintree_table": (2, n_joints),
        "f": (len(arrays["f"]), 3),
        "hands_meanl": (45,),
        "hands_meanr": (45,),
    }
    for key, shape in expected.items():
        if arrays[key].shape != shape:
            raise InputError(
                f"{key} in {path} has shape {arrays[key].shape}, SMPL-X has {shape}: {_REMEDY}"
            )
    # The root's parent is stored as 2**32 - 1.
    parents = tuple(arrays["kintree_table"][0].astype(np.int64).tolist())
    if parents[1:] != PARENTS[1:]:
        raise InputError(f"the joints in {path} are not those of SMPL-X: {_REMEDY}")


def _vertex_groups(weights: Float[np.ndarray, "V 55"]) -> Int[np.ndarray, " V"]:
    """Tell the eyeballs, which hang on the eye joints alone, from the skin."""
    left, right = (weights[:, JOINTS.index(f"{side}_eye")] > 0.5 for side in ("left", "right"))
    return np.where(left, 1, np.where(right, 2, 0)).astype(np.int32)


def _regions(
    expressions: Float[np.ndarray, "E V 3"],
    vertex_group: Int[np.ndarray, " V"],
    weights: Float[np.ndarray, "V 55"],
) -> Int[np.ndarray, " V"]:
    face = (np.linalg.norm(expressions, axis=2).max(0) > _MOVED) | (vertex_group > 0)
    wrists = [JOINTS.index("left_wrist"), JOINTS.index("right_wrist")]
    hands = weights[:, LEFT_HAND].sum(1) + weights[:, RIGHT_HAND].sum(1)
    return np.where(face, 1, np.where(hands + weights[:, wrists].sum(1) > 0.5, 2, 0)).astype(
        np.int32
    )
