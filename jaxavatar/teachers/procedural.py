"""The procedural teacher: rules move an avatar, and it shows what they did.

It is the embedded default among teachers. Its frames are renderings of the avatar itself, so its
keypoints are exact: no detector stands between teacher and learner.
"""

from jaxtyping import Array, Float, Int
from pallas_splat import Camera

from jaxavatar import animate
from jaxavatar.structs import Avatar, BodyPose, Frames


def keypoints(
    avatar: Avatar, motion: BodyPose, camera: Camera, index: Int[Array, " K"]
) -> Float[Array, "T K 2"]:
    """Return where the teacher has some Gaussians, pixels.

    Args:
        avatar: whom to move.
        motion: relative to the rest pose, with a leading axis T (`procedural_motion`).
        camera: of the clip.
        index: which Gaussians.
    """
    return animate.project_points(animate.pose_points(avatar, motion, index), camera)


def landmarks(avatar: Avatar, motion: BodyPose) -> Float[Array, "T K 3"]:
    """Return where the teacher has `body.LANDMARKS`, world metres; arguments as for `keypoints`."""
    return animate.pose_points(avatar, motion, avatar.landmarks)


def render_clip(
    avatar: Avatar, motion: BodyPose, camera: Camera, background: Float[Array, " 3"]
) -> Frames:
    """Render the teacher's frames; arguments as for `keypoints`, background in [0, 1]."""
    return animate.render_frames(animate.pose_avatar(avatar, motion), camera, background)
