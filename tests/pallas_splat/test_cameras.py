"""Camera models against NumPy: OpenCV's formula written out anew, and finite differences of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pallas_splat import Config, workloads
from pallas_splat.project import project
from scipy.spatial.transform import Rotation

N, WIDTH, HEIGHT = 200, 64, 48
LENSES = {
    "barrel": (-0.25, 0.05, 0.001, -0.002, 0.0),
    "pincushion": (0.2, 0.1, -0.003, 0.001, 0.02),
    "strong": (-0.35, 0.12, 0.01, 0.02, -0.01),
}
CAMERAS = ["orthographic", "pinhole", *LENSES]


def numpy_pixel(points, K, lens=None, orthographic=False):
    """Project points [..., 3] of the camera's frame, after OpenCV's documentation."""
    x, y = points[..., 0], points[..., 1]
    if not orthographic:
        x, y = x / points[..., 2], y / points[..., 2]
    if lens is not None:
        k1, k2, p1, p2, k3 = lens
        r2 = x**2 + y**2
        factor = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        x, y = (
            x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
            y * factor + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
        )
    return np.stack([K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]], axis=-1)


def make_scene(name, n=N, spread=1.0):
    """Gaussians before a camera of the given name, in float64; `spread` 1 is about the frustum."""
    rng = np.random.default_rng(0)
    gaussians, camera = workloads.clustered(n, WIDTH)
    camera = dataclasses.replace(camera, height=HEIGHT)
    camera.K[:] = [[70.0, 0, 30.0], [0, 65.0, 26.0], [0, 0, 1]]
    gaussians.means[:] = rng.uniform((-0.4, -0.3, 1), (0.4, 0.3, 1), (n, 3))
    gaussians.means[:, :2] *= spread
    gaussians.means[:] *= rng.uniform(1, 4, (n, 1))
    gaussians.scales[:] *= 0.1
    if name == "orthographic":
        camera = dataclasses.replace(camera, orthographic=True)
    elif name in LENSES:
        camera = dataclasses.replace(camera, distortion=np.array(LENSES[name]))
    return gaussians, camera


@functools.partial(jax.jit, static_argnames="config")
def project_jit(gaussians, camera, config=Config()):  # noqa: B008
    return project(gaussians, camera, config)


def project_float64(gaussians, camera):
    with jax.enable_x64(True):
        return jax.device_get(project_jit(*workloads.cast((gaussians, camera), jnp.float64)))


def to_camera(gaussians, camera):
    return gaussians.means @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]


def numpy_projection(gaussians, camera):
    """Centres and conics (xx, xy, yy), the Jacobian by central differences of `numpy_pixel`."""
    pixel = functools.partial(
        numpy_pixel, K=camera.K, lens=camera.distortion, orthographic=camera.orthographic
    )
    points, step = to_camera(gaussians, camera), 1e-5
    jacobian = np.stack(
        [(pixel(points + e) - pixel(points - e)) / (2 * step) for e in step * np.eye(3)], axis=-1
    )
    orient = Rotation.from_quat(gaussians.quats, scalar_first=True).as_matrix()
    shape = camera.viewmat[:3, :3] @ gaussians.linear @ (orient * gaussians.scales[:, None, :])
    half = jacobian @ shape
    conic = np.linalg.inv(half @ half.transpose(0, 2, 1) + 0.3 * np.eye(2))
    return pixel(points), np.stack([conic[:, 0, 0], conic[:, 0, 1], conic[:, 1, 1]], axis=1)


def stack_conic(projected):
    return np.stack([projected.conic_xx, projected.conic_xy, projected.conic_yy], axis=1)


@pytest.mark.parametrize("name", CAMERAS)
def test_centres_and_conics_match_the_definition(name):
    gaussians, camera = make_scene(name)
    projected = project_float64(gaussians, camera)
    centres, conics = numpy_projection(gaussians, camera)
    np.testing.assert_allclose(projected.x, centres[:, 0], rtol=1e-12)
    np.testing.assert_allclose(projected.y, centres[:, 1], rtol=1e-12)
    np.testing.assert_allclose(stack_conic(projected), conics, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(projected.depth, to_camera(gaussians, camera)[:, 2], rtol=1e-12)
    assert projected.visible.sum() > N / 4
    if name == "orthographic":  # nothing is frozen, however far outside
        gaussians, camera = make_scene(name, spread=20.0)
        conics = numpy_projection(gaussians, camera)[1]
        np.testing.assert_allclose(
            stack_conic(project_float64(gaussians, camera)), conics, rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("name", ["orthographic", "strong"])
def test_float32_is_right_for_many_gaussians(name):
    """Compilers vectorise long columns differently from short ones."""
    gaussians, camera = make_scene(name, n=40_000)
    projected = project_jit(*workloads.cast((gaussians, camera), jnp.float32))
    centres, conics = numpy_projection(gaussians, camera)
    np.testing.assert_allclose(projected.x, centres[:, 0], atol=2e-4)
    np.testing.assert_allclose(stack_conic(projected), conics, rtol=1e-3, atol=1e-4)


def test_zero_coefficients_are_no_lens():
    """Also where the Jacobian is frozen at the border."""
    gaussians, camera = make_scene("pinhole", spread=4.0)
    plain = project_float64(gaussians, camera)
    lens = project_float64(gaussians, dataclasses.replace(camera, distortion=np.zeros(5)))
    slopes = to_camera(gaussians, camera)[:, 0] / to_camera(gaussians, camera)[:, 2]
    assert np.mean(slopes > 0.8) > 0.2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), lens, plain)


def test_the_jacobian_is_frozen_where_the_lens_shows_the_border():
    """Far to the right it is that of the slope whose distorted image is the widened border."""
    gaussians, camera = make_scene("pinhole", n=1)
    camera.viewmat[:] = np.eye(4)
    camera.K[:2, 2] = WIDTH / 2, HEIGHT / 2
    gaussians.means[:] = [[1.3, 0, 1.0]]  # 1.3 is before the fold, the border at about 0.6
    border = (0.5 + 0.15) * WIDTH / camera.K[0, 0]
    grid = np.linspace(0, 1.3, 2_000_001)
    corner = np.hypot(border, (0.5 + 0.15) * HEIGHT / camera.K[1, 1])
    radius = grid[np.argmax(grid * (1 - 0.2 * grid**2 + 0.03 * grid**4) > corner)]
    slope = border * radius / corner  # a barrel's widest slopes are in the corners
    assert slope < 1.2
    camera = dataclasses.replace(camera, distortion=np.array([-0.2, 0.03, 0, 0, 0]))

    frozen = project_float64(gaussians, camera)
    gaussians.means[:] = [[slope, 0, 1.0]]
    at_border = project_float64(gaussians, camera)
    np.testing.assert_allclose(stack_conic(frozen), stack_conic(at_border), rtol=1e-5)
    assert frozen.x > at_border.x + 5


def test_nothing_is_seen_beyond_the_fold():
    """The fold found by walking along the radius; huge Gaussians are otherwise always visible."""
    rng = np.random.default_rng(1)
    walk = np.linspace(0, 3, 3001)
    gaussians, camera = make_scene("pinhole", n=len(walk))
    camera.viewmat[:] = np.eye(4)
    angle = 0.7
    gaussians.means[:] = np.stack(
        [walk * np.cos(angle), walk * np.sin(angle), np.ones_like(walk)], axis=1
    )
    assert gaussians.linear is not None
    gaussians.linear[:] = np.eye(3)
    gaussians.scales[:], gaussians.opacities[:] = 1e5, 1.0
    folds = 0
    lenses = rng.normal(size=(40, 5)) * [0.5, 0.3, 0, 0, 0.2]
    for lens in [*lenses, np.array([-1.2, 0.4, 0, 0, 0]), np.array([-0.1, 0, 0, 0, 0])]:
        r2 = walk**2
        growth = 1 + 3 * lens[0] * r2 + 5 * lens[1] * r2**2 + 7 * lens[4] * r2**3
        radial = 1 + lens[0] * r2 + lens[1] * r2**2 + lens[4] * r2**3
        seen = np.minimum.accumulate(growth) > 0
        seen &= radial > 0
        visible = project_float64(gaussians, dataclasses.replace(camera, distortion=lens)).visible
        assert np.mean(visible != seen) <= 1 / len(walk)
        folds += not seen.all()
    assert 10 < folds < 40


@pytest.mark.parametrize("name", ["orthographic", "strong"])
def test_gradients_match_finite_differences(name):
    """In float64, for a third of the Gaussians outside of the frustum, one argument at a time."""
    scene = make_scene(name, spread=1.8)
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        gaussians, camera = workloads.cast(scene, jnp.float64)
        weights = jnp.asarray(rng.normal(size=(7, N)))

        @jax.jit
        def loss(gaussians, camera):
            p = project(gaussians, camera, Config(antialias=True))
            columns = [p.x, p.y, p.conic_xx, p.conic_xy, p.conic_yy, p.opacity, p.depth]
            return jnp.sum(weights * jnp.where(p.visible, jnp.stack(columns), 0))

        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(gaussians, camera)
        names = [(0, "means"), (0, "quats"), (0, "linear"), (1, "viewmat"), (1, "K")]
        names += [(1, "distortion")] * (camera.distortion is not None)
        for which, field in names:
            array = getattr((gaussians, camera)[which], field)
            direction = rng.normal(size=array.shape)
            if field in ("viewmat", "K"):
                direction[-1] = 0  # the last row is not read
            direction *= 1e-6 / np.linalg.norm(direction)

            def moved(step, which=which, field=field, array=array):
                scene = [gaussians, camera]
                scene[which] = dataclasses.replace(scene[which], **{field: array + step})
                return loss(*scene)

            slope = 2 * float(jnp.sum(getattr(gradients[which], field) * direction))
            assert abs(slope) > 0, field
            expected = moved(direction) - moved(-direction)
            np.testing.assert_allclose(slope, expected, rtol=2e-6, err_msg=field)


def test_lens_of_many_cameras_at_once():
    gaussians, camera = workloads.cast(make_scene("strong"), jnp.float32)
    lenses = jnp.array([LENSES["strong"], LENSES["barrel"]])

    def centres(lens):
        return project_jit(gaussians, dataclasses.replace(camera, distortion=lens)).x

    both = jax.jit(jax.vmap(centres))(lenses)
    for i in range(2):
        np.testing.assert_allclose(both[i], centres(lenses[i]), rtol=1e-5)
