"""Backend "native": projection in JAX, its gradient and all compositing in C++, on the CPU."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_splat.config import Config
from pallas_splat.native.compositing import composite_projected
from pallas_splat.native.projection import project_native
from pallas_splat.project import attributes
from pallas_splat.structs import Camera, Composite, Gaussians, Info


def composite(
    gaussians: Gaussians,
    camera: Camera,
    features: Float[Array, "N C"] | None,
    config: Config,
    *,
    threads: int = 0,
) -> Composite:
    """Composite all Gaussians in depth order; there is no list of intersections to overflow.

    Args:
        gaussians: in world space, float32.
        camera: the view, float32.
        features: further attributes to composite, or None.
        config: image formation; sizes of other engines are ignored.
        threads: how many may work, of those that XLA owns; 0 stands for all.

    Returns:
        The composited attributes.

    Raises:
        NotImplementedError: an array is not float32, or the kernels are unavailable here.
    """
    projected = project_native(gaussians, camera, config, threads=threads)
    values, alpha = composite_projected(
        projected,
        attributes(gaussians, projected, features),
        camera.width,
        camera.height,
        threads=threads,
    )
    return Composite(values, alpha, Info(jnp.int32(0), jnp.int32(0), jnp.bool_(False)))
