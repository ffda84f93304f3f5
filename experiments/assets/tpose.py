"""MakeHuman's rig seen as the 55 joints of SMPL-X, and the bake into the T-pose.

Where SMPL-X's rotations should mean the same here, a joint must sit at the same height of the
spine: MakeHuman's spine of five bones starts at the hips, SMPL-X's pelvis lies above them. So
the two lowest bones become the pelvis, and the remaining three become spine1 to spine3.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from experiments.assets.makehuman import Mesh, Rig
from jaxavatar.body.skeleton import JOINTS, PARENTS

_FINGERS = {"1": "thumb", "2": "index", "3": "middle", "4": "ring", "5": "pinky"}

# Joint -> the bone whose head it is; {s} stands for the side.
_CENTRAL = {
    "pelvis": "spine04",
    "spine1": "spine03",
    "spine2": "spine02",
    "spine3": "spine01",
    "neck": "neck01",
    "head": "head",
    "jaw": "jaw",
}
_SIDED = {
    "hip": "upperleg01",
    "knee": "lowerleg01",
    "ankle": "foot",
    "collar": "clavicle",
    "shoulder": "upperarm01",
    "elbow": "lowerarm01",
    "wrist": "wrist",
    "eye": "eye",
}

# Bone (without side) -> the joint whose weights it joins. Face bones follow jaw or head.
_CENTRAL_WEIGHTS = {
    "root": "pelvis",
    "spine05": "pelvis",
    "spine04": "pelvis",
    "spine03": "spine1",
    "spine02": "spine2",
    "spine01": "spine3",
    "neck01": "neck",
    "neck02": "neck",
    "neck03": "neck",
}
_SIDED_WEIGHTS = {
    "wrist": "wrist",
    "metacarpal": "wrist",
    "lowerarm": "elbow",
    "upperarm": "shoulder",
    "clavicle": "collar",
    "shoulder01": "collar",
    "upperleg": "hip",
    "lowerleg": "knee",
    "foot": "ankle",
    "toe": "foot",
}


def joint_regressor(rig: Rig, n_vertices: int) -> Float[np.ndarray, "J V"]:
    """Return the weights that average vertices into joints; rows sum to one."""
    regressor = np.zeros((len(JOINTS), n_vertices))
    for m, joint in enumerate(JOINTS):
        bones = _head_bones(joint)
        for bone in bones:
            vertices = rig.head_vertices[bone]
            regressor[m, vertices] += 1 / len(vertices) / len(bones)
    return regressor


def joint_weights(rig: Rig, mesh: Mesh) -> Float[np.ndarray, "V J"]:
    """Sum the bones' weights into joints; rows sum to one.

    Teeth and tongue are rigid parts of head and jaw, eyeballs of the eye joints: the few painted
    weights that say otherwise are dropped, or a turned neck would pull teeth out of the mouth.
    """
    weights = np.zeros((len(mesh.vertices), len(JOINTS)))
    for bone, pairs in rig.weights.items():
        index = np.array([v for v, _ in pairs], int)
        np.add.at(weights[:, JOINTS.index(_weight_joint(bone, rig))], index, [w for _, w in pairs])
    for group, joint in (
        ("helper-upper-teeth", "head"),
        ("helper-lower-teeth", "jaw"),
        ("helper-tongue", "jaw"),
        ("helper-l-eye", "left_eye"),
        ("helper-r-eye", "right_eye"),
    ):
        weights[mesh.group_vertices(group)] = np.eye(len(JOINTS))[JOINTS.index(joint)]
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)


@dataclasses.dataclass(frozen=True)
class TPose:
    """The map from MakeHuman's A-pose to the T-pose: linear, so it carries targets too.

    Attributes:
        regressor: vertices to joints.
        weights: skinning weights.
        turns: world rotation of each joint from the A-pose to the T-pose.
    """

    regressor: Float[np.ndarray, "J V"]
    weights: Float[np.ndarray, "V J"]
    turns: Float[np.ndarray, "J 3 3"]

    def __call__(
        self, vertices: Float[np.ndarray, "K V 3"]
    ) -> tuple[Float[np.ndarray, "K V 3"], Float[np.ndarray, "K J 3"]]:
        """Carry vertices, or displacements of them, and the joints into the T-pose."""
        joints = np.tensordot(vertices, self.regressor, (1, 1)).transpose(0, 2, 1)
        moved = joints.copy()
        for m, parent in list(enumerate(PARENTS))[1:]:
            moved[:, m] = (
                moved[:, parent] + (joints[:, m] - joints[:, parent]) @ self.turns[parent].T
            )
        shift = moved - np.einsum("jab,kjb->kja", self.turns, joints)
        linear = np.einsum("vj,jab->vab", self.weights, self.turns)
        turned = np.einsum("vab,kvb->kva", linear, vertices)
        return turned + np.einsum("vj,kja->kva", self.weights, shift, optimize=True), moved


def t_pose(
    vertices: Float[np.ndarray, "V 3"],
    regressor: Float[np.ndarray, "J V"],
    weights: Float[np.ndarray, "V J"],
) -> TPose:
    """Find the turns that put a mesh into SMPL-X's T-pose.

    Arms go along x, the legs lose their bend forward and keep their spread.
    """
    joints = regressor @ vertices
    turns = np.tile(np.eye(3), (len(JOINTS), 1, 1))

    def bone(start: str, end: str) -> Float[np.ndarray, " 3"]:
        return joints[JOINTS.index(end)] - joints[JOINTS.index(start)]

    for side, sign in (("left", 1.0), ("right", -1.0)):
        for start, end in (("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "middle1")):
            turn = _shortest_turn(bone(f"{side}_{start}", f"{side}_{end}"), [sign, 0, 0])
            turns[JOINTS.index(f"{side}_{start}")] = turn
        for finger in _FINGERS.values():
            for k in (1, 2, 3):
                turns[JOINTS.index(f"{side}_{finger}{k}")] = turns[JOINTS.index(f"{side}_wrist")]
        for start, end in (("hip", "knee"), ("knee", "ankle")):
            along = bone(f"{side}_{start}", f"{side}_{end}")
            turns[JOINTS.index(f"{side}_{start}")] = _shortest_turn(along, along * [1, 1, 0])
    return TPose(regressor, weights, turns)


def _head_bones(joint: str) -> list[str]:
    if joint in _CENTRAL:
        return [_CENTRAL[joint]]
    side, part = joint.split("_")
    suffix = "." + side[0].upper()
    if part in _SIDED:
        return [_SIDED[part] + suffix]
    if part == "foot":
        return [f"toe{k}-1{suffix}" for k in range(1, 6)]
    number = {name: k for k, name in _FINGERS.items()}[part[:-1]]
    return [f"finger{number}-{part[-1]}{suffix}"]


def _weight_joint(bone: str, rig: Rig) -> str:
    stem, _, suffix = bone.partition(".")
    side = {"L": "left_", "R": "right_"}.get(suffix, "")
    if stem in _CENTRAL_WEIGHTS:
        return _CENTRAL_WEIGHTS[stem]
    if stem in ("pelvis", "breast"):
        return {"pelvis": "pelvis", "breast": "spine3"}[stem]
    if stem == "eye":
        return side + "eye"
    if stem.startswith("finger"):
        return f"{side}{_FINGERS[stem[6]]}{stem[8]}"
    for prefix, part in _SIDED_WEIGHTS.items():
        if stem.startswith(prefix):
            return side + part
    while bone not in ("head", "jaw"):
        bone = rig.parents[bone]
    return bone


def _shortest_turn(
    start: Float[np.ndarray, " 3"], end: Float[np.ndarray, " 3"] | list[float]
) -> Float[np.ndarray, "3 3"]:
    a, b = (np.asarray(v) / np.linalg.norm(v) for v in (start, end))
    x, y, z = np.cross(a, b)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + a @ b)
