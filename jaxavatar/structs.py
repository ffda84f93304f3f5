"""What the packages hand each other: frozen pytrees of arrays, shapes documented per field.

Conventions, used everywhere: metres, radians, seconds. The world is the camera frame of OpenCV
(x right, y down, z forward). The *canonical* frame of a body is SMPL-X's (x to the person's left,
y up, z forward, T-pose); the pelvis transform of a pose carries it into the world. Quaternions are
wxyz. Images are float32 `[H, W, 3]` in [0, 1], pixel centres at +0.5. Video runs at `FPS`, and
frame t covers the time [t/FPS, (t+1)/FPS).

Shape letters: T frames, N Gaussians, Q anchors, J = 55 joints, E = 52 face units, L text tokens,
S text segments, H W image.
"""

import dataclasses

import flax.struct
import numpy as np
from jaxtyping import Array, Bool, Float, Int

FPS = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
SEGMENT_FRAMES = 30 * FPS  # text is transcribed in windows of 30 s


@flax.struct.dataclass
class BodyPose:
    """A pose of the body, or a clip of them when every field has a leading axis T.

    Attributes:
        rotations: local joint rotations relative to the T-pose, axis-angle, radians.
        translation: of the pelvis, world metres.
        expression: ARKit face units, 0 neutral, 1 full.
    """

    rotations: Float[Array, "*T J 3"]
    translation: Float[Array, "*T 3"]
    expression: Float[Array, "*T E"]


@flax.struct.dataclass
class Avatar:
    """One person: canonical Gaussians bound to a skeleton.

    Gaussians are ordered by region: the first `n_face` belong to the face, the next `n_hand` to
    the hands, the rest to the body, so that a region is a static slice. They stand in the T-pose
    with a neutral, closed mouth (`rest.expression` is already contained in `means`).

    Attributes:
        means: canonical centres, metres.
        quats: canonical orientations, wxyz.
        scales: standard deviations along the local axes, metres.
        opacities: in [0, 1].
        colors: in [0, 1].
        weights: skinning weights, rows sum to one.
        face_units: displacement of each face Gaussian at full face unit, canonical metres.
        template_points: where each Gaussian sits on the mean template, canonical metres. It is
            the same for the same anatomical spot of every person: networks read it as position.
        anchors: indices of the Q Gaussians that stand for the whole in attention (eq. 1).
        landmarks: indices of the Gaussians at `body.LANDMARKS` (lips, eyes, hands ...).
        joints: rest joints of this person, canonical metres.
        rest: the pose of the photo with the mouth closed; motion is relative to it.
        photo_expression: the face units seen in the photo.
        K: intrinsics of the photo's camera, pixels, for an image of `image_size`.
        n_face: number of face Gaussians (static).
        n_hand: number of hand Gaussians (static).
        image_size: (height, width) that `K` refers to (static).
    """

    means: Float[Array, "N 3"]
    quats: Float[Array, "N 4"]
    scales: Float[Array, "N 3"]
    opacities: Float[Array, " N"]
    colors: Float[Array, "N 3"]
    weights: Float[Array, "N J"]
    face_units: Float[Array, "n_face E 3"]
    template_points: Float[Array, "N 3"]
    anchors: Int[Array, " Q"]
    landmarks: Int[Array, " K"]
    joints: Float[Array, "J 3"]
    rest: BodyPose
    photo_expression: Float[Array, " E"]
    K: Float[Array, "3 3"]
    n_face: int = flax.struct.field(pytree_node=False)
    n_hand: int = flax.struct.field(pytree_node=False)
    image_size: tuple[int, int] = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Drive:
    """The driving signal of a clip of T frames.

    Attributes:
        audio: speech features A_t at the frame rate.
        text: token embeddings Z of the S segments of 30 s that the clip touches.
        text_mask: which tokens exist; a segment without any text is all False.
        segment: index into `text` for each frame.
        time: absolute frame number of each frame, so that chunks of a clip agree with the whole.
    """

    audio: Float[Array, "T d_a"]
    text: Float[Array, "S L d_z"]
    text_mask: Bool[Array, "S L"]
    segment: Int[Array, " T"]
    time: Int[Array, " T"]


@flax.struct.dataclass
class Frames:
    """Rendered frames.

    Attributes:
        images: composited over the background, [0, 1].
        alpha: accumulated opacity, [0, 1].
    """

    images: Float[Array, "T H W 3"]
    alpha: Float[Array, "T H W"]


@dataclasses.dataclass(frozen=True)
class Phone:
    """One speech sound.

    Attributes:
        symbol: ARPABET without stress, upper case ("P", "AA", ...), or "SIL".
        start: seconds.
        end: seconds.
    """

    symbol: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class PoseLandmarks:
    """The 33 body landmarks of BlazePose, photo pixels.

    `visibility` in [0, 1]; `score` is the network's own confidence that a person is there;
    `depth` is in pixels relative to the hips' midpoint, towards the camera negative.
    """

    points: Float[np.ndarray, "33 2"]
    depth: Float[np.ndarray, " 33"]
    visibility: Float[np.ndarray, " 33"]
    score: float


@dataclasses.dataclass(frozen=True)
class FaceLandmarks:
    """The 478 face landmarks (irises are the last ten), photo pixels.

    `depth` is in pixels relative to the face's centre, towards the camera negative.
    """

    points: Float[np.ndarray, "478 2"]
    depth: Float[np.ndarray, " 478"]
    score: float


@dataclasses.dataclass(frozen=True)
class HandLandmarks:
    """The 21 landmarks of one hand, photo pixels; `depth` is relative to the wrist."""

    points: Float[np.ndarray, "21 2"]
    depth: Float[np.ndarray, " 21"]
    score: float


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything perception found in a photo.

    `left_hand` is the person's own left. What was not found is None, and `messages` says so in
    sentences for the user. `matte` is the person's coverage in [0, 1].
    """

    pose: PoseLandmarks
    face: FaceLandmarks | None
    left_hand: HandLandmarks | None
    right_hand: HandLandmarks | None
    matte: Float[np.ndarray, "H W"]
    messages: tuple[str, ...]
