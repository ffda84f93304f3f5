"""Project Gaussians with JAX; the gradient of that in C++.

XLA's CPU backend computes the projection and its tangent fast but its gradient slowly: it splits
the long chain of elementwise operations into many passes over memory. One pass in C++ takes about
a tenth.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pallas_splat.config import Config
from pallas_splat.linear import two_way, vary_together
from pallas_splat.native.call import call, require
from pallas_splat.project import project as project_in_jax
from pallas_splat.structs import Camera, Gaussians, Projected

_DIFFERENTIABLE = ("x", "y", "conic_xx", "conic_xy", "conic_yy", "opacity", "depth")


class _Static(NamedTuple):
    config: Config
    threads: int


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
        NotImplementedError: an array is not float32, the kernels are unavailable here, or a
            second derivative is asked for in reverse mode.
    """
    require((gaussians, camera))
    if camera.orthographic or camera.distortion is not None:
        return project_in_jax(gaussians, camera, config)
    # Colours are not looked at, and need no gradient from here.
    arguments = dataclasses.replace(gaussians, colors=gaussians.colors[:, :0]), camera
    moving = dict(
        zip(_DIFFERENTIABLE, _project(_Static(config, threads), arguments, ()), strict=True)
    )
    still = jax.lax.stop_gradient(project_in_jax(gaussians, camera, config))  # XLA shares the work.
    return dataclasses.replace(still, **moving)


def _forward(static: _Static, arguments, constants):
    del constants
    return _values(static, arguments), arguments


def _values(static: _Static, arguments) -> tuple[Array, ...]:
    gaussians, camera = arguments
    projected = project_in_jax(gaussians, camera, static.config)
    return tuple(getattr(projected, name) for name in _DIFFERENTIABLE)


def _tangent(static: _Static, arguments, tangents):
    return jax.jvp(lambda arguments: _values(static, arguments), (arguments,), (tangents,))[1]


def _cotangent(static: _Static, arguments, cotangents: tuple[Array, ...]):
    gaussians, camera = arguments
    # An empty array stands for the identity.
    linear = jnp.zeros((0, 3, 3), jnp.float32) if gaussians.linear is None else gaussians.linear
    inputs = vary_together(
        (
            gaussians.means,
            gaussians.quats,
            gaussians.scales,
            gaussians.opacities,
            linear,
            camera.viewmat,
            camera.K,
            *cotangents,
        )
    )
    d_means, d_quats, d_scales, d_opacities, d_linear, d_viewmat, d_K = call(
        "project_vjp",
        [array.shape for array in inputs[:7]],
        *inputs,
        width=np.int64(camera.width),
        height=np.int64(camera.height),
        near=np.float32(camera.near),
        low_pass=np.float32(static.config.low_pass),
        antialias=np.bool_(static.config.antialias),
        threads=np.int64(static.threads),
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


_project = two_way(_forward, _tangent, _cotangent)
