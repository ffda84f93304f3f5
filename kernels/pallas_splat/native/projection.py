"""Project Gaussians with JAX, and differentiate that in C++.

XLA's CPU backend computes the projection fast but its VJP slowly: it splits the long chain of
elementwise operations into many passes over memory. One pass in C++ takes about a tenth.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_splat.config import Config
from pallas_splat.linear import vary_together
from pallas_splat.native.call import call, require
from pallas_splat.project import project as project_in_jax
from pallas_splat.structs import Camera, Gaussians, Projected


def project(gaussians: Gaussians, camera: Camera, config: Config, *, threads: int = 0) -> Projected:
    """Project Gaussians onto the image plane; see `pallas_splat.project.project`.

    The C++ gradient is that of a pinhole without distortion; other cameras are JAX's own.

    Args:
        gaussians: in world space, float32.
        camera: the view, float32.
        config: its low-pass and Mip compensation are used.
        threads: how many may work on the gradient, of those that XLA owns; 0 stands for all.

    Returns:
        The 2D Gaussians.

    Raises:
        NotImplementedError: an array is not float32, or the kernels are unavailable here.
    """
    require((gaussians, camera))
    if camera.orthographic or camera.distortion is not None:
        return project_in_jax(gaussians, camera, config)
    gaussians, camera = vary_together((gaussians, camera))
    return _project(gaussians, camera, config, threads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _project(gaussians: Gaussians, camera: Camera, config: Config, threads: int) -> Projected:
    del threads
    return project_in_jax(gaussians, camera, config)


def _forward(gaussians: Gaussians, camera: Camera, config: Config, threads: int):
    return _project(gaussians, camera, config, threads), (gaussians, camera)


def _backward(config: Config, threads: int, residuals, cotangent: Projected):
    gaussians, camera = residuals
    # An empty array stands for the identity.
    linear = jnp.zeros((0, 3, 3), jnp.float32) if gaussians.linear is None else gaussians.linear
    arguments = vary_together(
        (
            gaussians.means,
            gaussians.quats,
            gaussians.scales,
            gaussians.opacities,
            linear,
            camera.viewmat,
            camera.K,
        )
    )
    d_means, d_quats, d_scales, d_opacities, d_linear, d_viewmat, d_K = call(
        "project_vjp",
        [array.shape for array in arguments],
        *arguments,
        cotangent.x,
        cotangent.y,
        cotangent.conic_xx,
        cotangent.conic_xy,
        cotangent.conic_yy,
        cotangent.opacity,
        cotangent.depth,
        width=np.int64(camera.width),
        height=np.int64(camera.height),
        near=np.float32(camera.near),
        low_pass=np.float32(config.low_pass),
        antialias=np.bool_(config.antialias),
        threads=np.int64(threads),
    )
    d_gaussians = Gaussians(
        means=d_means,
        quats=d_quats,
        scales=d_scales,
        opacities=d_opacities,
        colors=jnp.zeros_like(gaussians.colors),
        linear=None if gaussians.linear is None else d_linear,
    )
    return d_gaussians, dataclasses.replace(camera, viewmat=d_viewmat, K=d_K)


_project.defvjp(_forward, _backward)
