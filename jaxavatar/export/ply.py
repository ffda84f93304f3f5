"""Write Gaussians as a PLY file in the layout of 3D Gaussian splatting's authors.

B. Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", SIGGRAPH 2023:
logarithms of scales, logits of opacities, quaternions wxyz, colours as the first coefficient of
spherical harmonics, unused normals. Axes are those of the scene, usually x right, y down,
z forward.
"""

import os

import numpy as np
from scipy.special import logit

from jaxavatar.export.splats import SH_C0, Splats
from jaxavatar.files import replacing

_COLUMNS = (
    ("x", "y", "z"),
    ("nx", "ny", "nz"),
    ("f_dc_0", "f_dc_1", "f_dc_2"),
    ("opacity",),
    ("scale_0", "scale_1", "scale_2"),
    ("rot_0", "rot_1", "rot_2", "rot_3"),
)
_OPAQUE = 1e-6  # how close to 0 and 1 an opacity may come: its logit is finite


def save_ply(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write a PLY file, binary, float32.

    Raises:
        InputError: the file cannot be written.
    """
    opacity = logit(np.clip(splats.opacities, _OPAQUE, 1 - _OPAQUE))
    values = (
        splats.means,
        np.zeros_like(splats.means),
        (splats.colors - 0.5) / SH_C0,
        opacity[:, None],
        np.log(splats.scales),
        splats.quats,
    )
    names = [name for columns in _COLUMNS for name in columns]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(opacity)}"]
    header += [f"property float {name}" for name in names]
    with replacing(path) as temporary:
        rows = np.concatenate(values, axis=1).astype("<f4")
        temporary.write_bytes("\n".join([*header, "end_header\n"]).encode() + rows.tobytes())
