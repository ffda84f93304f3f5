"""Write a rig as a binary glTF file: skin, morph targets named as ARKit's, and what it does."""

import functools
import os
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from jaxavatar import body
from jaxavatar.export.glb import INDICES, VERTICES, Buffer, color_bytes, write_glb
from jaxavatar.export.rig import Rig, Track
from jaxavatar.structs import FPS

_HALF_TURN = Rotation.from_euler("x", np.pi)  # camera frame to y up
_UNLIT = "KHR_materials_unlit"


def save_rig(
    path: str | os.PathLike[str], rig: Rig, track: Track, origin: Float[np.ndarray, " 3"]
) -> None:
    """Write a GLB file: y up, the person looking along z.

    Args:
        path: of the file.
        rig: the mesh.
        track: what it does; the first frame is also how it stands. A single frame is a pose
            without an animation.
        origin: what becomes the origin, in the camera's frame.

    Raises:
        InputError: the file cannot be written.
    """
    buffer = Buffer()
    names = list(body.load_template().expression_names)
    rotations, translations = _up(track, origin)
    nodes = _joint_nodes(rotations[0], translations[0])
    skinned = {"mesh": 0, "skin": 0, "name": "avatar"}
    document = {
        "extensionsUsed": [_UNLIT],
        "scene": 0,
        "scenes": [{"nodes": [0, len(nodes)]}],
        "nodes": [*nodes, skinned],
        "meshes": [_mesh(rig, track.units[0], names, buffer)],
        "materials": [
            {
                "name": "avatar",
                "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
                "doubleSided": True,
                "extensions": {_UNLIT: {}},
            }
        ],
        "skins": [_skin(rig, buffer)],
    }
    if len(track.units) > 1:
        document["animations"] = [_animation(rotations, translations, track.units, buffer)]
    write_glb(path, document, buffer)


def _up(track: Track, origin: Float[np.ndarray, " 3"]):
    """Turn the pelvis from the camera's frame to y up; rotations become xyzw."""
    rotations = track.rotations[..., [1, 2, 3, 0]].copy()
    translations = track.translations.copy()
    rotations[:, 0] = (_HALF_TURN * Rotation.from_quat(rotations[:, 0])).as_quat()
    translations[:, 0] = _HALF_TURN.apply(translations[:, 0] - origin)
    # Of q and -q the one closer to the frame before: programs interpolate component by component.
    for frame in range(1, len(rotations)):
        turned = np.sum(rotations[frame] * rotations[frame - 1], axis=-1) < 0
        rotations[frame, turned] *= -1
    return rotations, translations


def _joint_nodes(rotations, translations) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = []
    for joint, name in enumerate(body.JOINTS):
        node = {
            "name": name,
            "rotation": (rotations[joint] / np.linalg.norm(rotations[joint])).tolist(),
            "translation": translations[joint].tolist(),
        }
        children = [child for child, parent in enumerate(body.PARENTS) if parent == joint]
        nodes.append(node | ({"children": children} if children else {}))
    return nodes


def _mesh(rig: Rig, units: np.ndarray, names: list[str], buffer: Buffer) -> dict[str, Any]:
    add = functools.partial(buffer.add, target=VERTICES)
    opaque = np.ones(len(rig.vertices))
    primitive = {
        "attributes": {
            "POSITION": add(rig.vertices, bounds=True),
            "NORMAL": add(rig.normals),
            "COLOR_0": add(color_bytes(rig.colors, opaque), normalized=True),
            "JOINTS_0": add(rig.influences.astype(np.uint8)),
            "WEIGHTS_0": add(rig.weights),
        },
        "indices": buffer.add(rig.faces.reshape(-1).astype(np.uint32), INDICES),
        "material": 0,
        "targets": [{"POSITION": buffer.add_sparse(unit)} for unit in rig.units],
    }
    return {
        "name": "avatar",
        "primitives": [primitive],
        "weights": units.tolist(),
        "extras": {"targetNames": names},
    }


def _skin(rig: Rig, buffer: Buffer) -> dict[str, Any]:
    inverse = np.tile(np.eye(4), (len(rig.joints), 1, 1))
    inverse[:, 3, :3] = -rig.joints  # by columns
    return {
        "joints": list(range(len(rig.joints))),
        "skeleton": 0,
        "inverseBindMatrices": buffer.add(inverse),
    }


def _animation(rotations, translations, units, buffer: Buffer) -> dict[str, Any]:
    """Move every joint that moves at all, and the face units of the mesh's node."""
    time = buffer.add(np.arange(len(units)) / FPS, bounds=True)
    samplers, channels = [], []

    def move(node: int, path: str, values: np.ndarray) -> None:
        samplers.append({"input": time, "output": buffer.add(values)})
        target = {"node": node, "path": path}
        channels.append({"sampler": len(samplers) - 1, "target": target})

    for joint in range(len(body.JOINTS)):
        for path, values in (("rotation", rotations), ("translation", translations)):
            if np.ptp(values[:, joint], axis=0).max() > 1e-6:
                move(joint, path, values[:, joint])
    move(len(body.JOINTS), "weights", units.reshape(-1))
    return {"name": "speech", "samplers": samplers, "channels": channels}
