"""Short clips of talking faces, seen by a camera that goes with the head, for a video teacher.

Random people act the procedural teacher's motion (`clips`), as `batches` has it for the driver.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pallas_splat import Camera

from jaxavatar import animate, body, head_view
from jaxavatar.data.clips import Clip
from jaxavatar.structs import Avatar, BodyPose
from jaxavatar.teachers import procedural
from jaxavatar.teachers.protocol import Told

_MOUTH = [
    body.LANDMARKS.index(name) for name in ("mouth_left", "mouth_right", "upper_lip", "lower_lip")
]
_LIPS = [body.LANDMARKS.index(name) for name in ("upper_lip_inner", "lower_lip_inner")]
_AROUND = 0.035  # metres from the middle of the mouth to the edge of its region


@dataclasses.dataclass(frozen=True)
class TalkConfig:
    """What a batch of clips holds.

    Attributes:
        clips: B.
        frames: T.
        context: frames of speech before and after a clip.
        side: of the square pictures, pixels.
        color_noise: deviation of random changes of each Gaussian's colour.
        yaw: largest angle of the camera to either side, radians.
        pitch: the same up and down.
    """

    clips: int = 8
    frames: int = 8
    context: int = 3
    side: int = 64
    color_noise: float = 0.05
    yaw: float = 0.3
    pitch: float = 0.12


@flax.struct.dataclass
class Talk:
    """B clips.

    Attributes:
        frames: [0, 1].
        told: speech and a picture of the rest pose by the same camera.
        mouth: 1 in the region of the mouth, 0 elsewhere.
        opening: gap between the inner lips beyond that of the rest pose, metres.
    """

    frames: Float[Array, "B T H W 3"]
    told: Told
    mouth: Float[Array, "B H W"]
    opening: Float[Array, "B T"]


@flax.struct.dataclass
class Shot:
    """One clip before it is rendered: who does what before which camera."""

    avatar: Avatar
    motion: BodyPose
    yaw: Float[Array, ""]
    pitch: Float[Array, ""]
    height: Float[Array, ""]
    background: Float[Array, " 3"]


def stack_avatars(avatars: list[Avatar]) -> Avatar:
    """Join avatars of equal sizes: every leaf with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *avatars)


def make_talk(config: TalkConfig, seed: int, step: int, clips: list[Clip], cast: Avatar) -> Talk:
    """Make the batch of a step: a pure function of seed and step.

    Args:
        config: sizes.
        seed: of everything random.
        step: of training.
        clips: to cut from.
        cast: people, from `stack_avatars`.
    """
    rng = np.random.default_rng([seed, step])
    people = rng.integers(len(cast.means), size=config.clips)
    pieces = []
    for _ in people:
        clip = clips[rng.integers(len(clips))]
        begin = int(rng.integers(0, max(1, len(clip) - config.frames)))
        pieces.append(cut(clip, begin, config.frames, config.context))
    avatars = jax.tree.map(lambda leaf: leaf[people], cast)
    noise = config.color_noise * rng.standard_normal(avatars.colors.shape, np.float32)
    avatars = dataclasses.replace(avatars, colors=jnp.clip(avatars.colors + noise, 0.0, 1.0))
    uniform = functools.partial(rng.uniform, size=config.clips)
    shots = Shot(
        avatar=avatars,
        motion=jax.tree.map(lambda *leaves: np.stack(leaves), *(motion for _, motion in pieces)),
        yaw=jnp.asarray(uniform(-config.yaw, config.yaw), jnp.float32),
        pitch=jnp.asarray(uniform(-config.pitch, config.pitch), jnp.float32),
        height=jnp.asarray(uniform(0.14, 0.17), jnp.float32),
        background=jnp.asarray(rng.random((config.clips, 3)), jnp.float32),
    )
    audio = jnp.asarray(np.stack([audio for audio, _ in pieces]))
    return film(shots, audio, config.side)


def cut(
    clip: Clip, begin: int, count: int, context: int
) -> tuple[Float[np.ndarray, "T_context d_a"], BodyPose]:
    """Cut `count` frames of a clip: speech with `context` frames more on either side, and motion.

    Speech beyond either end is zero; motion beyond the end repeats it.
    """
    index = begin + np.arange(-context, count + context)
    exists = (index >= 0) & (index < len(clip))
    audio = np.where(exists[:, None], clip.audio[index.clip(0, len(clip) - 1)], 0.0)
    inside = (begin + np.arange(count)).clip(0, len(clip) - 1)
    motion = jax.tree.map(lambda leaf: np.asarray(leaf)[inside], clip.motion)
    return audio.astype(np.float32), motion


@functools.partial(jax.jit, static_argnames="side")
def film(shots: Shot, audio: Float[Array, "B T_context d_a"], side: int) -> Talk:
    """Let the procedural teacher act shots (leading axis B) and render them."""

    def one(shot: Shot) -> tuple[Array, Array, Array, Array]:
        avatar = shot.avatar
        camera = head_view.head_camera(avatar, side, shot.yaw, shot.pitch, shot.height)
        rest = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:1]), shot.motion)
        motion = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rest, shot.motion)
        views = head_view.follow_head(avatar, camera, animate.delta_transforms(avatar, motion))
        posed = animate.pose_avatar(avatar, motion)
        shown = animate.render_frames(posed, views, shot.background).images
        marks = procedural.landmarks(avatar, motion)
        gap = jnp.linalg.norm(marks[:, _LIPS[0]] - marks[:, _LIPS[1]], axis=-1)
        return shown[1:], shown[0], mouth_region(avatar, camera), gap[1:] - gap[0]

    frames, reference, mouth, opening = jax.lax.map(one, shots)
    return Talk(frames, Told(audio=audio, reference=reference), mouth, opening)


def mouth_region(avatar: Avatar, camera: Camera) -> Float[Array, "H W"]:
    """Return 1 within 3.5 cm of the middle of the mouth of the rest pose, 0 elsewhere."""
    rest = jnp.zeros((1, len(body.JOINTS), 7)).at[..., 0].set(1.0)
    index = avatar.landmarks[np.array(_MOUTH)]
    transforms = animate.joint_transforms(avatar, rest[0])
    points, _ = body.skin(avatar.means[index], avatar.weights[index], transforms)
    middle = animate.project_points(points.mean(0, keepdims=True), camera)[0]
    reach = _AROUND * camera.K[0, 0] / head_view.DISTANCE
    x, y = jnp.arange(camera.width) + 0.5, jnp.arange(camera.height) + 0.5
    inside = (jnp.abs(x - middle[0]) < reach)[None] & (jnp.abs(y - middle[1]) < reach)[:, None]
    return inside.astype(jnp.float32)
