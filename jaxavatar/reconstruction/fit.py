"""Fit shape, pose, expression and position of the body to the landmarks of one photo.

Unknowns are joint rotations, pelvis translation, shape (betas) and face units; the camera is a
pinhole whose focal length is assumed, since a single photo does not tell it. The residuals are
landmark errors over their deviations and priors over theirs, minimised by Levenberg-Marquardt.
Everything has a fixed size, whatever was detected: what was not seen weighs zero.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.body import JOINTS, LEFT_HAND, PARENTS, RIGHT_HAND, BodyModel, kinematics, skinning
from jaxavatar.reconstruction import correspond
from jaxavatar.reconstruction.least_squares import levenberg_marquardt
from jaxavatar.structs import BodyPose, Findings

# 65 mm on a full-frame camera, about what portraits are taken with.
FOCAL_PER_DIAGONAL = 1.5
# First the arms swing to the joints that were seen, then hands and outliers count as they should:
# fitting fingers from a wrong elbow ends in a twisted arm.
_SCHEDULE = np.concatenate([np.zeros(25), np.linspace(0, 1, 15), np.ones(30)]).astype(np.float32)
_FACE_UNIT_SIGMA = 0.25
_PRIOR_WEIGHT = 1.5
# The scale of a body and its distance look alike in one photo: stay near the mean adult.
_SHAPE_WEIGHT = 4.0
_HAND_SIZE_SIGMA = 0.2


@flax.struct.dataclass
class BodyFit:
    """A body posed as in the photo.

    Attributes:
        pose: rotations, translation and face units of the photo.
        betas: shape, along `correspond.shape_directions`.
        hands: logarithm of the size of the left and the right hand relative to the template's.
        K: intrinsics, pixels.
        error: root mean square distance of the seen landmarks, pixels: pose, hands, face.
    """

    pose: BodyPose
    betas: Float[Array, " B"]
    hands: Float[Array, " 2"]
    K: Float[Array, "3 3"]
    error: Float[Array, " 3"]


def fit_body(model: BodyModel, findings: Findings, size: tuple[int, int]) -> BodyFit:
    """Fit the body to what was found in a photo.

    Args:
        model: the template.
        findings: from `perception.perceive`.
        size: (height, width) of the photo, pixels.

    Returns:
        The posed body. Parts that were not seen follow the priors (arms hanging, fingers loose).
    """
    height, width = size
    focal = FOCAL_PER_DIAGONAL * float(np.hypot(height, width))
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
    seen = correspond.targets(findings)
    start = _first_guess(model, seen, K)
    return _solve(correspond.landmark_model(model), model, seen, jnp.asarray(K), start)


def posed_landmarks(
    landmarks: correspond.LandmarkModel,
    joints: Float[Array, "J 3"],
    beta_joints: Float[Array, "B J 3"],
    pose: BodyPose,
    betas: Float[Array, " B"],
    hands: Float[Array, " 2"],
) -> Float[Array, "L 3"]:
    """Return where the landmarks of a posed body are, world metres, ordered as `Targets`."""
    rest = joints + jnp.tensordot(betas, beta_joints, 1)
    local = kinematics.local_transforms(pose.rotations, pose.translation)
    surface = (
        landmarks.points
        + jnp.tensordot(betas, landmarks.betas, 1)
        + jnp.tensordot(pose.expression, landmarks.expression, 1)
    )
    surface, rest = resize_hands(surface, landmarks.weights, rest, hands)
    transforms = kinematics.skinning_transforms(rest, local, PARENTS)
    surface, _ = skinning.skin(surface, landmarks.weights, transforms)
    return correspond.assemble(kinematics.posed_joints(rest, local, PARENTS), surface)


def resize_hands(
    points: Float[Array, "P 3"],
    weights: Float[Array, "P J"],
    joints: Float[Array, "J 3"],
    sizes: Float[Array, " 2"],
) -> tuple[Float[Array, "P 3"], Float[Array, "J 3"]]:
    """Scale both hands about their wrists by exp(size), before posing.

    Hands of real people differ from the template's. Without this freedom a small hand would push
    its whole arm away from the camera.

    Args:
        points: rest surface points, canonical metres.
        weights: their skinning weights; a point follows as far as it belongs to the hand.
        joints: rest joints, canonical metres.
        sizes: logarithms for the left and the right hand.
    """
    for side, fingers, size in (("left", LEFT_HAND, sizes[0]), ("right", RIGHT_HAND, sizes[1])):
        index = JOINTS.index(f"{side}_wrist")
        wrist, grow = joints[index], jnp.exp(size) - 1.0
        share = weights[:, index] + weights[:, fingers].sum(-1)
        points = points + share[:, None] * grow * (points - wrist)
        joints = joints.at[fingers].add(grow * (joints[fingers] - wrist))
    return points, joints


@jax.jit
def _solve(landmarks, model, seen, K, start) -> BodyFit:
    """Run the fit; compiled once, since all shapes are fixed."""
    mean, sigma = (jnp.asarray(a) for a in _rotation_prior())
    joints, beta_joints = model.joints, correspond.shape_directions(model)[1]
    n_betas = beta_joints.shape[0]
    n_units = landmarks.expression.shape[0]

    def unpack(x: Array) -> tuple[BodyPose, Array, Array]:
        rotations, translation, betas, units, hands = jnp.split(
            x, np.cumsum([3 * len(JOINTS), 3, n_betas, n_units])
        )
        pose = BodyPose(
            rotations=mean + sigma * rotations.reshape(-1, 3),
            translation=start + translation,
            expression=_FACE_UNIT_SIGMA * units,
        )
        return pose, betas, _HAND_SIZE_SIGMA * hands

    fingers = np.zeros(seen.weights.shape[0], np.float32)
    fingers[14:56] = 1.0
    fingers[[14, 35]] = 0.0  # the wrists help from the start

    def importance(stage: Array) -> Array:
        return 1.0 - jnp.asarray(fingers) * (1.0 - stage)

    prior = np.full(3 * len(JOINTS) + 3 + n_betas + n_units + 2, _PRIOR_WEIGHT, np.float32)
    prior[3 * len(JOINTS) :][:3] = 0.0  # anywhere in front of the camera
    prior[3 * len(JOINTS) + 3 :][: len(model.betas)] = _SHAPE_WEIGHT

    def residuals(x: Array, stage: Array) -> Array:
        pose, betas, hands = unpack(x)
        points = posed_landmarks(landmarks, joints, beta_joints, pose, betas, hands)
        depth = jnp.maximum(points[:, 2], 0.1)
        pixels = points[:, :2] / depth[:, None] * K[0, 0] + K[:2, 2]
        flat = (pixels - seen.points) * (seen.weights * importance(stage))[:, None]
        relief = _relative_depth(depth) * K[0, 0] / depth.mean() - seen.depth
        relief = relief * seen.depth_weights * importance(stage)
        tolerance = 4.0 + 100.0 * (1.0 - stage)
        return jnp.concatenate(
            [
                _soften(flat.reshape(-1), tolerance),
                _soften(relief, tolerance),
                x * prior,
                _limits(pose),
            ]
        )

    # Arms start bent forwards: from straight ones the descent may bend them behind the back.
    bent = jnp.zeros(prior.size)
    for side, sign in (("left", 1), ("right", -1)):
        elbow = 3 * JOINTS.index(f"{side}_elbow") + 1
        bent = bent.at[elbow].set(-1.0 * sign / sigma[JOINTS.index(f"{side}_elbow"), 1])
    x, _ = levenberg_marquardt(residuals, bent, jnp.asarray(_SCHEDULE))
    pose, betas, hands = unpack(x)
    points = posed_landmarks(landmarks, joints, beta_joints, pose, betas, hands)
    pixels = points[:, :2] / points[:, 2:] * K[0, 0] + K[:2, 2]
    squared = ((pixels - seen.points) ** 2).sum(-1)
    counted = seen.weights > 0
    error = jnp.stack(
        [
            jnp.sqrt((squared * counted)[part].sum() / jnp.maximum(counted[part].sum(), 1))
            for part in (slice(0, 14), slice(14, 56), slice(56, None))
        ]
    )
    return BodyFit(pose=pose, betas=betas, hands=hands, K=K, error=error)


def _first_guess(
    model: BodyModel, seen: correspond.Targets, K: Float[np.ndarray, "3 3"]
) -> Float[Array, " 3"]:
    """Place the pelvis so that the shoulders (always seen) have the right size and place."""
    rest = np.asarray(model.joints)
    left, right = JOINTS.index("left_shoulder"), JOINTS.index("right_shoulder")
    span = np.linalg.norm(seen.points[0] - seen.points[1])
    depth = float(K[0, 0]) * np.linalg.norm(rest[left] - rest[right]) / max(float(span), 1.0)
    middle = np.append((seen.points[0] + seen.points[1]) / 2, 1.0)
    target = np.linalg.solve(np.asarray(K, float), middle) * depth
    # The pelvis turns by pi about x around its own joint.
    turned = rest[0] + ((rest[left] + rest[right]) / 2 - rest[0]) * [1, -1, -1]
    return jnp.asarray(target - turned, jnp.float32)


def _rotation_prior() -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each local rotation, radians, shape (J, 3).

    A standing person faces the camera with hanging arms and loose fingers. Deviations are wide
    along the axes in which a joint really moves and narrow along the others.
    """
    mean = np.zeros((len(JOINTS), 3), np.float32)
    sigma = np.full((len(JOINTS), 3), 0.1, np.float32)

    def put(name: str, centre: tuple, deviation: tuple) -> None:
        mean[JOINTS.index(name)], sigma[JOINTS.index(name)] = centre, deviation

    put("pelvis", (np.pi, 0, 0), (0.12, 0.12, 0.7))
    put("neck", (0, 0, 0), (0.2, 0.2, 0.2))
    put("head", (0, 0, 0), (0.3, 0.4, 0.3))
    put("jaw", (0, 0, 0), (0.001, 0.001, 0.001))  # the face units open the mouth
    for side, sign in (("left", 1), ("right", -1)):
        put(f"{side}_shoulder", (0, 0, -1.2 * sign), (0.6, 0.6, 0.6))
        put(f"{side}_elbow", (0, -0.3 * sign, 0), (1.0, 0.9, 0.1))
        put(f"{side}_wrist", (0, 0, 0), (0.4, 0.4, 0.6))
        put(f"{side}_knee", (0.1, 0, 0), (0.3, 0.05, 0.05))
        put(f"{side}_eye", (0, 0, 0), (0.15, 0.25, 0.01))
        for finger in ("index", "middle", "ring", "pinky"):
            for k in (1, 2, 3):
                aside = 0.15 if k == 1 else 0.02
                put(f"{side}_{finger}{k}", (0, 0, -0.3 * sign), (0.05, aside, 0.5))
        for k in (1, 2, 3):
            put(f"{side}_thumb{k}", (0, 0, 0), (0.3, 0.3, 0.3) if k == 1 else (0.05, 0.3, 0.2))
    return mean, sigma


def _limits(pose: BodyPose) -> Array:
    """Penalise elbows and fingers bent backwards and face units outside [0, 1]."""
    left, right = JOINTS.index("left_elbow"), JOINTS.index("right_elbow")
    fingers = [
        i for i, name in enumerate(JOINTS) if name[-1] in "123" and not name.startswith("spine")
    ]
    fingers = [i for i in fingers if "thumb" not in JOINTS[i]]
    sign = np.array([1.0 if JOINTS[i].startswith("left") else -1.0 for i in fingers])
    backwards = jnp.concatenate(
        [
            jnp.stack([pose.rotations[left, 1], -pose.rotations[right, 1]]),
            pose.rotations[np.array(fingers), 2] * sign - 0.2,
        ]
    )
    return jnp.concatenate(
        [
            10.0 * jnp.maximum(backwards, 0.0),
            20.0 * jnp.maximum(-pose.expression, 0.0),
            20.0 * jnp.maximum(pose.expression - 1.0, 0.0),
        ]
    )


def _relative_depth(depth: Float[Array, " L"]) -> Float[Array, " L"]:
    """Express depth relative to the shoulders, each wrist and the face, as `Targets` does."""
    pose, left, right, face = depth[:14], depth[14:35], depth[35:56], depth[56:]
    return jnp.concatenate(
        [pose - pose[0:2].mean(), left - left[0], right - right[0], face - face[:468].mean()]
    )


def _soften(r: Array, tolerance: Array) -> Array:
    """Let residuals beyond `tolerance` deviations grow like a square root: outliers lose."""
    return r / (1.0 + (r / tolerance) ** 2) ** 0.25
