"""Physics that pictures have to obey, on every backend; all scenes have one shape."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

VALUES = ["image", "alpha", "depth", "features", "median_depth"]


def changed(inputs, **fields):
    """Inputs with other fields of its Gaussians."""
    return inputs | {"gaussians": dataclasses.replace(inputs["gaussians"], **fields)}


def test_moving_scene_and_camera_together_changes_nothing_but_normals(backend, contract):
    inputs = contract.make_inputs("clustered")
    gaussians, camera = inputs["gaussians"], inputs["camera"]
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec([0.4, -0.8, 1.1]).as_matrix()
    motion[:3, 3] = 0.3, -1.2, 0.7
    rotation = motion[:3, :3]
    moved = changed(
        inputs,
        means=gaussians.means @ rotation.T + motion[:3, 3],
        linear=rotation @ gaussians.linear,
    ) | {"camera": dataclasses.replace(camera, viewmat=camera.viewmat @ np.linalg.inv(motion))}
    first, second = (contract.draw(scene, backend) for scene in (inputs, moved))
    for name in VALUES:
        np.testing.assert_allclose(second[name], first[name], 3e-5, 3e-5, err_msg=name)
    np.testing.assert_allclose(second["normals"], first["normals"] @ rotation.T, atol=2e-3)


def test_scaling_world_and_camera_alike_scales_depth_only(backend, contract):
    """By a power of two, so that nothing is rounded differently but by the near plane."""
    inputs = contract.make_inputs("clustered")
    gaussians, view = inputs["gaussians"], inputs["camera"].viewmat.copy()
    view[:3, 3] *= 4
    camera = dataclasses.replace(inputs["camera"], viewmat=view)
    scaled = changed(inputs, means=gaussians.means * 4, scales=gaussians.scales * 4)
    first, second = (contract.draw(s, backend) for s in (inputs, scaled | {"camera": camera}))
    for name in VALUES:
        factor = 4 if "depth" in name else 1
        np.testing.assert_allclose(
            second[name], factor * first[name], rtol=1e-5, atol=1e-5, err_msg=name
        )


def test_image_is_linear_in_colours(backend, contract):
    inputs = contract.make_inputs("clustered") | {"background": np.zeros(3)}
    rng = np.random.default_rng(3)
    first, second = rng.uniform(size=(2, contract.N, 3))
    images = [
        contract.draw(changed(inputs, colors=colors), backend)["image"]
        for colors in (first, second, 2 * first - 0.5 * second)
    ]
    np.testing.assert_allclose(images[2], 2 * images[0] - 0.5 * images[1], atol=3e-6)


def test_alpha_grows_with_opacity(backend, contract):
    """Everywhere but where a pixel ends earlier, which takes away 1e-4 at most."""
    inputs = contract.make_inputs("clustered")
    alphas = [
        contract.draw(changed(inputs, opacities=share * inputs["gaussians"].opacities), backend)
        for share in (0.5, 0.8, 1.0)
    ]
    for fainter, stronger in itertools.pairwise(alphas):
        assert (stronger["alpha"] - fainter["alpha"]).min() > -1.1e-4
        assert (stronger["alpha"] - fainter["alpha"]).max() > 0.1


def test_black_gaussians_show_the_background_where_alpha_is_missing(backend, contract):
    inputs = contract.make_inputs("clustered") | {"background": np.ones(3)}
    drawn = contract.draw(changed(inputs, colors=np.zeros((contract.N, 3))), backend)
    np.testing.assert_array_equal(drawn["image"], np.tile(1 - drawn["alpha"][..., None], 3))
    assert 0.1 < drawn["alpha"].max() < 1


def test_uniform_colour_and_features_follow_alpha(backend, contract):
    inputs = contract.make_inputs("clustered") | {"background": np.zeros(3)}
    inputs = changed(inputs, colors=np.full((contract.N, 3), 0.25))
    drawn = contract.draw(inputs | {"features": np.full((contract.N, 2), -2.0)}, backend)
    for name, factor in (("image", 0.25), ("features", -2)):
        expected = np.broadcast_to(factor * drawn["alpha"][..., None], drawn[name].shape)
        np.testing.assert_allclose(drawn[name], expected, atol=1e-6)


def test_depths_lie_between_the_nearest_and_the_farthest(backend, contract):
    inputs = contract.make_inputs("clustered")
    drawn = contract.draw(inputs, backend)
    centres = inputs["gaussians"].means @ inputs["camera"].viewmat[:3, :3].T
    z = centres[:, 2] + inputs["camera"].viewmat[2, 3]
    seen = drawn["alpha"] > 0
    assert drawn["depth"][seen].min() >= z.min() * (1 - 2e-5)
    assert drawn["depth"].max() <= z.max() * (1 + 2e-5)
    halfway = drawn["alpha"] >= 0.5 + 1e-5
    assert halfway.any() and not drawn["median_depth"][drawn["alpha"] < 0.5 - 1e-5].any()
    nearest = np.abs(drawn["median_depth"][halfway][:, None] - z).min(axis=1)
    assert nearest.max() < 1e-5  # it is the depth of one of the Gaussians


def test_normals_are_unit_and_face_the_camera(backend, contract):
    inputs = contract.make_inputs("avatar")
    drawn = contract.draw(inputs, backend)
    length = np.linalg.norm(drawn["normals"], axis=-1)
    np.testing.assert_allclose(length[drawn["alpha"] > 0.1], 1, atol=1e-5)
    np.testing.assert_array_equal(length[drawn["alpha"] == 0], 0)
    in_camera = drawn["normals"] @ inputs["camera"].viewmat[:3, :3].T
    assert in_camera[drawn["alpha"] > 0.5][:, 2].max() < 0.3  # but for perspective, towards us


@pytest.mark.parametrize("offset", [(1.0, 0.0), (0.0, -1.0)])
def test_screen_offsets_shift_the_picture(backend, contract, offset):
    inputs = contract.make_inputs("avatar")
    rest = contract.draw(inputs | {"screen_offsets": np.zeros((contract.N, 2))}, backend)
    shifted = inputs | {"screen_offsets": np.tile(offset, (contract.N, 1))}
    moved = contract.draw(shifted, backend)["image"]
    back = np.roll(moved, (-int(offset[1]), -int(offset[0])), axis=(0, 1))
    np.testing.assert_allclose(back[2:-2, 2:-2], rest["image"][2:-2, 2:-2], atol=2e-5)
