import jax.numpy as jnp
import numpy as np
import pallas_splat

from jaxavatar.animate import pose_avatar
from jaxavatar.preview import SIDE_ANGLE, preview
from jaxavatar.structs import BodyPose
from jaxavatar.views import side_cameras


def test_preview(toys):
    avatar = toys.avatar()
    avatar = avatar.replace(photo_expression=jnp.full(52, 0.5))
    photo = np.zeros((8, 8, 3))
    shown = preview(avatar, photo, size=24)
    assert next(iter(shown)) == "Photo" and shown["Photo"] is photo
    images = np.stack(list(shown.values())[1:])
    assert images.shape == (4, 24, 24, 3) and np.isfinite(images).all()
    # Each is what the oracle draws of that pose from that side.
    for index, (angle, share) in enumerate([(0, 0.5), (0, 0), (SIDE_ANGLE, 0), (-SIDE_ANGLE, 0)]):
        deltas = BodyPose(jnp.zeros((1, 55, 3)), jnp.zeros((1, 3)), jnp.full((1, 52), share))
        posed = pose_avatar(avatar, deltas)
        camera = side_cameras(avatar, 24, np.array([angle]))
        expected = pallas_splat.render(
            pallas_splat.Gaussians(*(leaf[0] for leaf in vars(posed).values())),
            pallas_splat.Camera(camera.viewmat[0], camera.K[0], camera.width, camera.height),
            background=jnp.ones(3),
            backend="reference",
        ).image
        np.testing.assert_allclose(images[index], expected, atol=2e-4)
    assert np.abs(images[2] - images[3]).mean() > 0.01
