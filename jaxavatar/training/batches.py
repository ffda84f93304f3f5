"""Training batches: random stretches of clips, acted by random people, seen by random cameras."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from pallas_splat import Camera

from jaxavatar import animate, body, losses
from jaxavatar.data.clips import Clip
from jaxavatar.speech.visemes import BILABIALS
from jaxavatar.structs import FPS, Avatar, BodyPose, Drive
from jaxavatar.teachers import procedural
from jaxavatar.training.step import Batch


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """What a batch holds.

    Attributes:
        clips: B.
        frames: T.
        rendered: R, frames of each clip that are rendered.
        side: of the rendered pictures, pixels.
        face_points: keypoints on the face, chosen by how far the face units move them.
        other_points: keypoints elsewhere, half of them on the hands.
        lead_in: frames without weight where a stretch begins within a clip, for the joints to
            arrive from the rest pose.
        neighbours: k of the rigidity graph.
        color_noise: deviation of random changes of each Gaussian's colour, so that the few people
            stand for many.
        place_noise: the same of its canonical place, metres.
    """

    clips: int = 4
    frames: int = 40
    rendered: int = 1
    side: int = 96
    face_points: int = 112
    other_points: int = 48
    lead_in: int = 5
    neighbours: int = 6
    color_noise: float = 0.15
    place_noise: float = 0.002


@dataclasses.dataclass(frozen=True)
class Cast:
    """The people of a data set, ready for batches: one stacked avatar and its graphs."""

    avatars: Avatar
    neighbours: Int[np.ndarray, "P N k"]

    @property
    def size(self) -> int:
        """Return the number of people."""
        return len(self.neighbours)


def make_cast(avatars: list[Avatar], k: int) -> Cast:
    """Stack avatars of equal sizes and connect the neighbours of each."""
    return Cast(
        avatars=jax.tree.map(lambda *leaves: jnp.stack(leaves), *avatars),
        neighbours=np.stack([losses.neighbour_graph(np.asarray(a.means), k) for a in avatars]),
    )


def make_batch(config: BatchConfig, seed: int, step: int, clips: list[Clip], cast: Cast) -> Batch:
    """Make the batch of a step: a pure function of seed and step.

    Three clips of four are seen close up on the face, the others from the waist up, from up to 35
    degrees to either side. Closed lips weigh more than other frames, and what the face moves more
    than what it does not: a "p" with open lips is the error that people see.
    """
    rng = np.random.default_rng([seed, step])
    people = rng.integers(cast.size, size=config.clips)
    drives, motions, cameras, indices, weights, frames = [], [], [], [], [], []
    for number, person in enumerate(people):
        clip = clips[rng.integers(len(clips))]
        begin = int(rng.integers(-config.frames // 4, max(1, len(clip) - config.frames // 2)))
        drive, motion, exists = stretch(clip, begin, config.frames)
        avatar = jax.tree.map(lambda leaf, p=person: leaf[p], cast.avatars)
        drives.append(drive)
        motions.append(motion)
        cameras.append(_camera(avatar, config.side, bool(number % 4), rng))
        indices.append(_choose_points(config, avatar, rng))
        weight = exists * np.where(_closures(clip)[_inside(clip, begin, config.frames)], 1.0, 0.4)
        if begin > 0:
            weight[: config.lead_in] = 0.0
        importance = _importance(avatar, indices[-1])
        weights.append((weight[:, None] * importance).astype(np.float32))
        frames.append(np.sort(rng.choice(np.flatnonzero(weight), config.rendered, replace=False)))

    def stack(items: list):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *items)

    background = rng.random((config.clips, 3)).astype(np.float32)
    staged = (
        _vary(config, jax.tree.map(lambda leaf: leaf[people], cast.avatars), rng),
        stack(motions),
        stack(cameras),
        jnp.asarray(background),
        jnp.asarray(np.stack(indices)),
        jnp.asarray(np.stack(frames)),
    )
    keypoints, images = _teach(*staged)
    return Batch(
        avatar=staged[0],
        drive=stack(drives),
        camera=staged[2],
        background=staged[3],
        motion=jax.tree.map(jnp.asarray, staged[1]),
        keypoint_index=staged[4],
        keypoints=keypoints,
        keypoint_weights=jnp.asarray(np.stack(weights)),
        frames=staged[5],
        images=images,
        masks=jnp.ones(images.shape[:-1]),
        neighbours=jnp.asarray(cast.neighbours[people]),
    )


def _vary(config: BatchConfig, avatars: Avatar, rng: np.random.Generator) -> Avatar:
    """Change colours and places a little, for teacher and learner alike."""
    noise = rng.standard_normal((2, *avatars.colors.shape), np.float32)
    colors = np.clip(np.asarray(avatars.colors) + config.color_noise * noise[0], 0, 1)
    means = np.asarray(avatars.means) + config.place_noise * noise[1]
    return dataclasses.replace(avatars, colors=jnp.asarray(colors), means=jnp.asarray(means))


def clip_drive(clip: Clip) -> Drive:
    """Return the whole driving signal of a clip."""
    count = len(clip)
    return Drive(
        audio=jnp.asarray(clip.audio),
        text=jnp.asarray(clip.text[None]),
        text_mask=jnp.asarray(clip.text_mask[None]),
        segment=jnp.zeros(count, jnp.int32),
        time=clip.start + jnp.arange(count),
    )


def stretch(clip: Clip, begin: int, count: int) -> tuple[Drive, BodyPose, np.ndarray]:
    """Cut `count` frames of a clip from frame `begin` on.

    Returns:
        The driving signal, the teacher's motion, and which frames the clip has; the others repeat
        its first or last frame.
    """
    index = begin + np.arange(count)
    exists = (index >= 0) & (index < len(clip))
    inside = _inside(clip, begin, count)
    drive = Drive(
        audio=jnp.asarray(clip.audio[inside]),
        text=jnp.asarray(clip.text[None]),
        text_mask=jnp.asarray(clip.text_mask[None]),
        segment=jnp.zeros(count, jnp.int32),
        time=jnp.asarray(clip.start + index, jnp.int32),
    )
    return drive, jax.tree.map(lambda leaf: leaf[inside], clip.motion), exists


def _inside(clip: Clip, begin: int, count: int) -> Int[np.ndarray, " T"]:
    """Return the frames of a stretch, those beyond either end replaced by the end."""
    return (begin + np.arange(count)).clip(0, len(clip) - 1)


def _closures(clip: Clip) -> Bool[np.ndarray, " T"]:
    """Return in which frames of a clip the lips are closed for a sound, or for silence."""
    closed = np.zeros(len(clip), bool)
    for phone in clip.phones:
        if phone.symbol in (*BILABIALS, "SIL"):
            first, last = round(phone.start * FPS - 0.5), round(phone.end * FPS - 0.5)
            closed[max(first, 0) : max(last, first) + 1] = True
    return closed


def _mobility(avatar: Avatar) -> Float[np.ndarray, " n_face"]:
    """Return how far any face unit moves each face Gaussian, relative to the farthest."""
    reach = np.asarray(jnp.linalg.norm(avatar.face_units, axis=-1).max(1))
    return reach / reach.max()


def _importance(avatar: Avatar, index: Int[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """Return the weights of keypoints, from 0.3 for what is rigid to 1 for lips and chin."""
    mobility = np.concatenate([_mobility(avatar), np.zeros(1)])
    return 0.3 + 0.7 * mobility[np.minimum(index, avatar.n_face)]


def _camera(avatar: Avatar, side: int, close: bool, rng: np.random.Generator) -> Camera:
    """Look at the face or the upper body from a random direction."""
    rest = _rest_joints(avatar)
    centre = np.asarray(rest[body.JOINTS.index("head" if close else "spine3")])
    height = 0.32 if close else 1.0  # metres of the world in the picture
    yaw = rng.uniform(-0.6, 0.6)
    c, s = np.cos(yaw), np.sin(yaw)
    rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation
    distance = 2.0
    viewmat[:3, 3] = [0, 0, distance] - rotation @ centre
    focal = side * distance / height
    K = np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    return Camera(
        viewmat=jnp.asarray(viewmat, jnp.float32),
        K=jnp.asarray(K, jnp.float32),
        width=side,
        height=side,
    )


@jax.jit
def _rest_joints(avatar: Avatar) -> Float[jax.Array, "J 3"]:
    """Return where the joints of the rest pose are, world metres."""
    local = body.local_transforms(avatar.rest.rotations, avatar.rest.translation)
    return body.posed_joints(avatar.joints, local, body.PARENTS)


def _choose_points(
    config: BatchConfig, avatar: Avatar, rng: np.random.Generator
) -> Int[np.ndarray, " K"]:
    """Choose keypoints: where the face moves most, on the hands and elsewhere; sorted by region."""
    mobility = _mobility(avatar) + 0.05
    face = rng.choice(avatar.n_face, config.face_points, replace=False, p=mobility / mobility.sum())
    first_body = avatar.n_face + avatar.n_hand
    hands = avatar.n_face + rng.choice(avatar.n_hand, config.other_points // 2, replace=False)
    rest = config.other_points - config.other_points // 2
    others = first_body + rng.choice(len(avatar.means) - first_body, rest, replace=False)
    return np.concatenate([np.sort(face), np.sort(hands), np.sort(others)]).astype(np.int32)


@jax.jit
def _teach(
    avatars: Avatar,
    motions: BodyPose,
    cameras: Camera,
    backgrounds: Float[jax.Array, "B 3"],
    indices: Int[jax.Array, "B K"],
    frames: Int[jax.Array, "B R"],
) -> tuple[Float[jax.Array, "B T K 2"], Float[jax.Array, "B R H W 3"]]:
    """Let the teacher act: keypoints of all frames, pictures of the rendered ones."""

    def one(item):
        avatar, motion, camera, background, index, shown = item
        points = procedural.keypoints(avatar, motion, camera, index)
        picked = jax.tree.map(lambda leaf: leaf[shown], motion)
        posed = animate.pose_avatar(avatar, picked)
        return points, animate.render_frames(posed, camera, background).images

    return jax.lax.map(one, (avatars, motions, cameras, backgrounds, indices, frames))
