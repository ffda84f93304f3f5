"""Close cameras that go with the head, for teachers of faces.

In such a view a nod moves nothing: what is left is the face's own motion, which is what speech
decides, and lips are as large in the picture as they can be.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Array, Float
from pallas_splat import Camera

from jaxavatar import animate, body
from jaxavatar.structs import Avatar

HEIGHT = 0.15
"""Metres of the face that a view shows."""
DISTANCE = 2.0
"""Metres from the camera to the face."""

_HEAD = body.JOINTS.index("head")
_MOUTH = np.array([body.LANDMARKS.index(f"{which}_lip_inner") for which in ("upper", "lower")])
_REST = np.tile(np.array([1, 0, 0, 0, 0, 0, 0], np.float32), (len(body.JOINTS), 1))
_ABOVE_MOUTH = 0.012  # metres from the mouth to the middle of the view


def head_camera(
    avatar: Avatar,
    side: int,
    yaw: Float[Array, ""] | float = 0.0,
    pitch: Float[Array, ""] | float = 0.0,
    height: Float[Array, ""] | float = HEIGHT,
) -> Camera:
    """Return a camera that looks at the face of the rest pose.

    Args:
        avatar: whose face.
        side: of the square picture, pixels.
        yaw: radians to the person's left from straight ahead of the head.
        pitch: radians from above.
        height: metres of the face in the picture.
    """
    transforms = animate.joint_transforms(avatar, jnp.asarray(_REST))
    # The face looks along +z of the T-pose, y up; cameras have x right, y down, z forward.
    towards = jaxlie.SO3.from_y_radians(yaw) @ jaxlie.SO3.from_x_radians(-jnp.asarray(pitch))
    axes = transforms[_HEAD, :, :3] @ towards.as_matrix() @ jnp.diag(jnp.array([1.0, -1.0, -1.0]))
    weights = avatar.weights[avatar.landmarks[_MOUTH]]
    lips, _ = body.skin(avatar.means[avatar.landmarks[_MOUTH]], weights, transforms)
    centre = lips.mean(0) - _ABOVE_MOUTH * axes[:, 1]
    eye = centre - DISTANCE * axes[:, 2]
    viewmat = jnp.eye(4).at[:3, :3].set(axes.T).at[:3, 3].set(-axes.T @ eye)
    focal = side * DISTANCE / height
    K = jnp.array([[0.0, 0, 0.5 * side], [0, 0, 0.5 * side], [0, 0, 1]])
    K = K.at[0, 0].set(focal).at[1, 1].set(focal)
    return Camera(viewmat=viewmat, K=K, width=side, height=side)


def follow_head(avatar: Avatar, camera: Camera, transforms: Float[Array, "T J 7"]) -> Camera:
    """Move a camera along with the head.

    Args:
        avatar: whose head.
        camera: of the rest pose.
        transforms: T_{m,t} relative to it, as in `deformer.Motion.transforms`.

    Returns:
        A camera per frame, through which no gradient passes: the view is chosen, not learned.
    """
    rest = animate.joint_transforms(avatar, jnp.asarray(_REST))[_HEAD]
    moved = jax.vmap(lambda frame: animate.joint_transforms(avatar, frame)[_HEAD])(transforms)
    # X_t = A_t X, so what the rest camera sees of X it sees of A_rest A_t^-1 X_t.
    turn = jnp.einsum("ab,tcb->tac", rest[:, :3], moved[:, :, :3])
    shift = rest[:, 3] - jnp.einsum("tab,tb->ta", turn, moved[:, :, 3])
    back = jnp.tile(jnp.eye(4), (len(transforms), 1, 1))
    back = back.at[:, :3, :3].set(turn).at[:, :3, 3].set(shift)
    viewmat = jnp.einsum("ab,tbc->tac", camera.viewmat, back)
    K = jnp.tile(camera.K, (len(transforms), 1, 1))
    return jax.lax.stop_gradient(dataclasses.replace(camera, viewmat=viewmat, K=K))
