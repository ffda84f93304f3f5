"""Small made-up avatars and driving signals: the right shapes and ranges, no assets needed."""

import jax
import jax.numpy as jnp
import numpy as np
from pallas_splat import Camera
from scipy.spatial.transform import Rotation

from jaxavatar import animate
from jaxavatar.body import JOINTS, PARENTS
from jaxavatar.deformer import initial_state, whole
from jaxavatar.losses import neighbour_graph
from jaxavatar.structs import Avatar, BodyPose, Drive
from jaxavatar.training import Batch

UNITS = 52


def avatar(count=200, n_face=60, n_hand=30, anchors=8, landmarks=6, seed=0, dtype=np.float32):
    """Gaussians scattered around a random skeleton that stands 2.5 m in front of the camera."""
    rng = np.random.default_rng(seed)
    joints = np.zeros((len(JOINTS), 3))
    for m, parent in enumerate(PARENTS[1:], start=1):
        joints[m] = joints[parent] + rng.normal(size=3) * 0.08
    home = np.concatenate(
        [
            np.full(n_face, JOINTS.index("jaw")),
            rng.integers(25, 55, n_hand),
            rng.integers(0, 22, count - n_face - n_hand),
        ]
    )
    template = joints[home] + 0.04 * rng.normal(size=(count, 3))
    near = np.exp(-20 * np.linalg.norm(template[:, None] - joints, axis=-1))

    def array(values):
        return jnp.asarray(np.asarray(values, dtype))

    rest = np.zeros((len(JOINTS), 3))
    rest[:] = 0.1 * rng.normal(size=rest.shape)
    rest[0] = [np.pi, 0, 0]
    return Avatar(
        means=array(template + 0.01 * rng.normal(size=(count, 3))),
        quats=array(Rotation.from_quat(rng.normal(size=(count, 4))).as_quat()[:, [3, 0, 1, 2]]),
        scales=array(rng.uniform(0.01, 0.03, (count, 3))),
        opacities=array(rng.uniform(0.4, 0.9, count)),
        colors=array(rng.uniform(0.1, 0.9, (count, 3))),
        weights=array(near / near.sum(1, keepdims=True)),
        face_units=array(0.01 * rng.normal(size=(n_face, UNITS, 3))),
        template_points=array(template),
        anchors=jnp.asarray(rng.choice(count, anchors, replace=False)),
        landmarks=jnp.asarray(rng.choice(n_face + n_hand, landmarks, replace=False)),
        joints=array(joints),
        rest=BodyPose(array(rest), array([0.0, 0.0, 2.5]), array(np.zeros(UNITS))),
        photo_expression=array(np.zeros(UNITS)),
        K=array([[60.0, 0, 16], [0, 60.0, 16], [0, 0, 1]]),
        n_face=n_face,
        n_hand=n_hand,
        image_size=(32, 32),
    )


def drive(frames=24, audio=10, text=6, segments=1, tokens=5, seed=0, start=0):
    """Random speech and text; frame numbers start at `start`."""
    rng = np.random.default_rng(seed)
    time = start + np.arange(frames)
    return Drive(
        audio=jnp.asarray(rng.normal(size=(frames, audio)), jnp.float32),
        text=jnp.asarray(rng.normal(size=(segments, tokens, text)), jnp.float32),
        text_mask=jnp.asarray(rng.random((segments, tokens)) < 0.7),
        segment=jnp.asarray(np.linspace(0, segments - 1e-6, frames).astype(int)),
        time=jnp.asarray(time),
    )


def driver_params(driver, avatar, drive, noise=0.0):
    """Random parameters; with noise, of a network that moves the avatar, as a trained one does."""
    window = whole(drive, driver.config.halo)
    params = jax.jit(driver.init)(jax.random.key(0), avatar, window, initial_state(driver.config))
    return with_noise(params, noise)


def with_noise(tree, noise, seed=1):
    """Add noise to every entry; by NumPy, which compiles nothing."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf + np.float32(noise * rng.normal(size=leaf.shape))),
        jax.device_get(tree),
    )


def camera(size=32, focal=60.0):
    """A camera at the origin whose image the avatar fills."""
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32)
    return Camera(viewmat=jnp.eye(4), K=jnp.asarray(K), width=size, height=size)


def batch(clips=2, frames=6, rendered=1, keypoints=10, size=16, count=80, k=3):
    """Random clips whose teacher shows the avatar at rest, keypoints a few pixels away."""
    rng = np.random.default_rng(7)
    bodies = [avatar(count, 30, 20, anchors=4, seed=b) for b in range(clips)]
    pose, render = jax.jit(animate.pose_avatar), jax.jit(animate.render_frames)
    still = [pose(body, jax.tree.map(lambda leaf: 0 * leaf[None], body.rest)) for body in bodies]
    view = camera(size, focal=30.0)
    targets = [animate.project_points(posed.means[0, :keypoints], view) for posed in still]
    pictures = [render(posed, view, jnp.ones(3)).images for posed in still]

    def stack(items):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)

    return Batch(
        avatar=stack(bodies),
        drive=stack([drive(frames, seed=b) for b in range(clips)]),
        camera=stack([view] * clips),
        background=jnp.ones((clips, 3)),
        motion=jax.tree.map(lambda leaf: jnp.zeros((clips, frames, *leaf.shape)), bodies[0].rest),
        keypoint_index=jnp.tile(jnp.arange(keypoints), (clips, 1)),
        keypoints=stack(targets)[:, None] + jnp.float32(rng.normal(size=(clips, frames, 1, 2))),
        keypoint_weights=jnp.ones((clips, frames, keypoints)),
        frames=jnp.asarray(rng.integers(0, frames, (clips, rendered))),
        images=jnp.tile(stack(pictures), (1, rendered, 1, 1, 1)),
        masks=jnp.ones((clips, rendered, size, size)),
        neighbours=jnp.stack([neighbour_graph(np.asarray(b.means), k) for b in bodies]),
    )
