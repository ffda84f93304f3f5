"""A person whose body, pose and landmarks are known, as the tests' ground truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.body import JOINTS, VERTEX_GROUPS, load_template, pose_vertices
from jaxavatar.body.face_landmarks import load_face_landmarks
from jaxavatar.reconstruction import correspond
from jaxavatar.reconstruction.fit import FOCAL_PER_DIAGONAL, BodyFit, fit_body
from jaxavatar.reconstruction.place import Budget, place
from jaxavatar.reconstruction.raster import rasterise
from jaxavatar.reconstruction.surface import build_surface
from jaxavatar.structs import BodyPose, FaceLandmarks, Findings, HandLandmarks, PoseLandmarks

SIZE = (192, 160)
# BlazePose's numbers of the joints in the order of `correspond.joint_rows`, face points left out.
POSE_ROWS = [11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28, 31, 32]


class Truth:
    """One person before a camera: `fit` as a perfect fit would be, `vertices` and `joints` posed.

    `pixels` and `depth` belong to the vertices; `photo` and `matte` are shaded by the rasteriser.
    """

    def __init__(self, model):
        self.fit = _fit(model)
        self.posed, self.joints = _posed(model, self.fit)
        self.K = np.asarray(self.fit.K, float)
        self.pixels = self.project(self.posed)
        self.photo, self.matte = _picture(model, self.pixels, self.posed[:, 2])

    def project(self, points):
        return points[:, :2] / points[:, 2:] * self.K[0, 0] + self.K[:2, 2]


def _fit(model):
    """Stand the template, changed in shape and face, half from the side with one arm raised."""
    rng = np.random.default_rng(5)
    rotations = 0.04 * rng.normal(size=(55, 3))
    rotations[0] = [np.pi, 0.02, 0.3]
    rotations[JOINTS.index("jaw")] = 0
    for side, sign, raised in (("left", 1, 1.3), ("right", -1, 0.3)):
        rotations[JOINTS.index(f"{side}_shoulder")] = [0, 0, -1.2 * sign]
        rotations[JOINTS.index(f"{side}_elbow")] = [0, -raised * sign, 0]
    betas = np.zeros(len(correspond.shape_directions(model)[0]))
    betas[: len(model.betas)] = 0.2 * rng.normal(size=len(model.betas))
    betas[len(model.betas) :] = 0.7 * rng.normal(size=len(betas) - len(model.betas))
    expression = np.zeros(52)
    expression[model.expression_names.index("jawOpen")] = 0.15
    expression[model.expression_names.index("mouthSmileLeft")] = 0.3
    height, width = SIZE
    focal = FOCAL_PER_DIAGONAL * np.hypot(height, width)
    return BodyFit(
        pose=BodyPose(
            jnp.asarray(rotations, jnp.float32),
            jnp.array([-0.08, -0.75, 2.2], jnp.float32),
            jnp.asarray(expression, jnp.float32),
        ),
        betas=jnp.asarray(betas, jnp.float32),
        hands=jnp.zeros(2),
        K=jnp.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], jnp.float32),
        error=jnp.zeros(3),
    )


def _posed(model, fit):
    """Pose the whole mesh, joints as points that follow themselves."""
    directions, joint_directions = correspond.shape_directions(model)
    vertices = model.vertices + jnp.tensordot(fit.betas, directions, 1)
    joints = model.joints + jnp.tensordot(fit.betas, joint_directions, 1)
    both = model.replace(
        weights=jnp.concatenate([model.weights, jnp.eye(len(JOINTS))]),
        expression_dirs=jnp.pad(model.expression_dirs, ((0, 0), (0, len(JOINTS)), (0, 0))),
    )
    posed = pose_vertices(both, jnp.concatenate([vertices, joints]), joints, fit.pose)
    return np.split(np.asarray(posed, float), [len(vertices)])


def _picture(model, pixels, depth):
    """Shade the mesh at four samples per pixel: a smooth pattern, eyes and background apart."""
    large = (2 * SIZE[0], 2 * SIZE[1])
    faces = np.asarray(model.faces)
    owner, mix = rasterise(2 * pixels, depth, faces, large)
    home = np.asarray(model.vertices)
    color = 0.5 + 0.3 * np.sin(home * [9.0, 12.0, 10.0] + [0.0, 1.0, 2.0])
    color[np.asarray(model.vertex_group) == VERTEX_GROUPS.index("left_eye")] = 0.9
    shown = (color[faces[owner]] * mix[..., None]).sum(2)
    shown[owner < 0] = [0.1, 0.7, 0.2]

    def shrink(image):
        return image.reshape(SIZE[0], 2, SIZE[1], 2, -1).mean((1, 3))

    return shrink(shown).astype(np.float32), shrink((owner >= 0) * 1.0)[..., 0].astype(np.float32)


def _findings(model, truth):
    """Name the projected joints and surface points as a perfect detector would.

    It does not see the legs (they are outside the picture) and the right hand.
    """
    index = correspond.joint_rows()
    points, depth, visibility = np.zeros((33, 2)), np.zeros(33), np.zeros(33)
    pixels = truth.project(truth.joints)
    scale = truth.K[0, 0] / truth.joints[:, 2].mean()
    points[POSE_ROWS] = pixels[index]
    # The fit trusts only a share of the detector's depths, which exaggerates them.
    depth[POSE_ROWS] = (truth.joints[index, 2] - truth.joints[index[:2], 2].mean()) * scale / 0.4
    visibility[POSE_ROWS[:8]] = 1.0
    corners, mix = load_face_landmarks()
    face = (truth.posed[corners] * mix[:, :, None]).sum(1)
    rows = correspond.hand_joints("left")
    tips = [correspond._finger_tip(model, f"left_{f}") for f in correspond._FINGERS]
    hand = np.array([truth.joints[r] if r >= 0 else truth.posed[tips[-1 - r]] for r in rows])
    return Findings(
        pose=PoseLandmarks(points, depth, visibility, 1.0),
        face=FaceLandmarks(truth.project(face), (face[:, 2] - face[:, 2].mean()) * scale, 1.0),
        left_hand=HandLandmarks(truth.project(hand), (hand[:, 2] - hand[0, 2]) * scale, 1.0),
        right_hand=None,
        matte=truth.matte,
        messages=("the person's right hand does not show clearly in the photo",),
    )


@pytest.fixture(scope="session")
def model():
    return load_template()


@pytest.fixture(scope="session")
def truth(model):
    return Truth(model)


@pytest.fixture(scope="session")
def findings(model, truth):
    return _findings(model, truth)


@pytest.fixture(scope="session")
def fitted(model, findings):
    """What the fit makes of the findings."""
    return jax.block_until_ready(fit_body(model, findings, SIZE))


BUDGET = Budget(seen=(900, 200, 1500), unseen=(500, 150, 800))


@pytest.fixture(scope="session")
def placed(model, truth):
    """The true surface and Gaussians on it, as the photo shows them."""
    surface = build_surface(model, truth.fit, None)
    rng = np.random.default_rng(0)
    return surface, place(model, surface, truth.K, truth.matte, BUDGET, rng)
