"""The oracle's own test: plain NumPy, pixel by pixel, and finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Config, render, workloads
from scipy.spatial.transform import Rotation

N, SIZE = 24, 12


def numpy_render(gaussians, camera, antialias, low_pass=0.3):
    """Image and alpha by definition, one Gaussian and one pixel at a time."""
    rotation, translation = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    (fx, _, cx), (_, fy, cy), _ = camera.K
    splats = []
    for i in range(len(gaussians.means)):
        x, y, z = rotation @ gaussians.means[i] + translation
        if z <= camera.near:
            continue
        wide = (0.15 * camera.width, 0.15 * camera.height)
        slope_x = np.clip(x / z, (-cx - wide[0]) / fx, (camera.width - cx + wide[0]) / fx)
        slope_y = np.clip(y / z, (-cy - wide[1]) / fy, (camera.height - cy + wide[1]) / fy)
        jacobian = np.array([[fx / z, 0, -fx * slope_x / z], [0, fy / z, -fy * slope_y / z]])
        orient = Rotation.from_quat(gaussians.quats[i], scalar_first=True).as_matrix()
        shape = gaussians.linear[i] @ orient @ np.diag(gaussians.scales[i])
        covariance = jacobian @ rotation @ shape @ shape.T @ rotation.T @ jacobian.T
        blurred = covariance + low_pass * np.eye(2)
        opacity = gaussians.opacities[i]
        if antialias:
            opacity *= np.sqrt(np.linalg.det(covariance) / np.linalg.det(blurred))
        centre = (fx * x / z + cx, fy * y / z + cy)
        splats.append((z, centre, np.linalg.inv(blurred), opacity, gaussians.colors[i]))
    splats.sort(key=lambda splat: splat[0])

    image = np.zeros((camera.height, camera.width, 3))
    alpha = np.zeros((camera.height, camera.width))
    for row, column in np.ndindex(alpha.shape):
        through = 1.0
        for _, centre, conic, opacity, color in splats:
            offset = np.array([column + 0.5, row + 0.5]) - centre
            here = min(0.99, opacity * np.exp(-0.5 * offset @ conic @ offset))
            if here < 1 / 255:
                continue
            if through * (1 - here) <= 1e-4:
                break
            image[row, column] += through * here * color
            through *= 1 - here
        alpha[row, column] = 1 - through
    return image, alpha


@pytest.mark.parametrize("antialias", [False, True])
def test_matches_the_definition(antialias):
    gaussians, camera = workloads.clustered(N, SIZE)
    gaussians.opacities[:] = np.linspace(0.6, 1.0, N)  # opaque enough to end pixels
    gaussians.scales[:] *= 10
    image, alpha = numpy_render(gaussians, camera, antialias)
    with jax.enable_x64(True):
        scene = workloads.cast((gaussians, camera), jnp.float64)
        rendered = render(*scene, backend="reference", config=Config(antialias=antialias))
    np.testing.assert_allclose(rendered.image, image, atol=1e-12)
    np.testing.assert_allclose(rendered.alpha, alpha, atol=1e-12)
    assert alpha.max() > 0.999


def test_gradients_match_finite_differences():
    """One argument at a time, along a random direction, in float64."""
    gaussians, camera = workloads.clustered(N, SIZE)
    rng = np.random.default_rng(0)
    arrays = {
        **{name: getattr(gaussians, name) for name in vars(gaussians)},
        "viewmat": camera.viewmat,
        "K": camera.K,
        "features": rng.normal(size=(N, 2)),
        "background": rng.uniform(size=3),
    }
    weights = rng.normal(size=(camera.height, camera.width, 7))

    with jax.enable_x64(True):
        arrays, weights = workloads.cast((arrays, weights), jnp.float64)

        @jax.jit
        def loss(arrays):
            fields = dict(arrays)
            extra = {name: fields.pop(name) for name in ("features", "background")}
            view = {name: fields.pop(name) for name in ("viewmat", "K")}
            rendered = render(
                type(gaussians)(**fields),
                type(camera)(**view, width=camera.width, height=camera.height),
                **extra,
                backend="reference",
                config=Config(antialias=True),
            )
            parts = [rendered.image, rendered.alpha[..., None], 0.1 * rendered.depth[..., None]]
            assert rendered.features is not None
            return jnp.sum(weights * jnp.concatenate([*parts, rendered.features], axis=-1))

        gradient = jax.jit(jax.grad(loss))(arrays)
        for name, array in arrays.items():
            direction = rng.normal(size=array.shape)
            if name == "viewmat":
                direction[3] = 0  # the last row is not read
            direction *= 1e-6 / np.linalg.norm(direction)
            ahead = loss({**arrays, name: array + direction})
            behind = loss({**arrays, name: array - direction})
            slope = float(jnp.sum(gradient[name] * direction)) * 2
            assert abs(slope) > 0, name
            np.testing.assert_allclose(slope, ahead - behind, rtol=1e-6, atol=1e-12, err_msg=name)


def test_second_derivatives_and_forward_mode():
    gaussians, camera = workloads.clustered(3, 6)
    with jax.enable_x64(True):
        gaussians, camera = workloads.cast((gaussians, camera), jnp.float64)

        def loss(opacities):
            moved = type(gaussians)(**{**vars(gaussians), "opacities": opacities})
            return jnp.sum(render(moved, camera, backend="reference").image ** 2)

        hessian = jax.hessian(loss)(gaussians.opacities)
        step = 1e-5 * jnp.array([1.0, -0.5, 0.3])
        ahead = jax.grad(loss)(gaussians.opacities + step)
        behind = jax.grad(loss)(gaussians.opacities - step)
        np.testing.assert_allclose(hessian @ step * 2, ahead - behind, rtol=1e-6)
        assert np.abs(hessian).max() > 0


def test_twice_the_resolution_shows_the_same():
    """With the low-pass scaled too, every other pixel of the larger picture is the smaller one."""
    gaussians, camera = workloads.avatar(N, SIZE)
    gaussians.scales[:] *= 20
    larger = dataclasses.replace(camera, K=camera.K.copy(), width=2 * SIZE, height=2 * SIZE)
    larger.K[:2] *= 2
    larger.K[:2, 2] -= 0.5  # so that centres of pixels coincide
    with jax.enable_x64(True):
        images = [
            render(*scene, backend="reference", config=Config(low_pass=low_pass)).image
            for scene, low_pass in (
                (workloads.cast((gaussians, camera), jnp.float64), 0.3),
                (workloads.cast((gaussians, larger), jnp.float64), 1.2),
            )
        ]
    small, large = jax.device_get(images)
    np.testing.assert_allclose(large[::2, ::2], small, atol=1e-12)
    assert small.max() > 0.5
