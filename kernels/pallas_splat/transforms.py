"""Moving Gaussians by rigid or skinned transforms, without copying their shapes.

An affine map x -> L x + t takes a Gaussian with covariance `M M^T` to one with `(L M)(L M)^T`. So
only the means and `linear` change, to `L m + t` and `L linear`; quaternions, scales, opacities and
colours stay the very same arrays, also for a whole batch of poses under `vmap`. Spherical
harmonics coefficients stay as well: they mean directions in the world, before and after.

The arithmetic is on columns of N, like that of `project`, whose docstring says why.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_splat.structs import Gaussians

_TOP = 12  # entries of the upper three rows of a transform


def move_rigid(
    gaussians: Gaussians,
    poses: Float[Array, "K 4 4"] | Float[Array, "K 3 4"],
    ids: Int[Array, " N"],
) -> Gaussians:
    """Move each Gaussian by the pose of the object that it belongs to.

    Differentiable in the Gaussians and the poses. Any affine maps will do, not only rigid ones.

    Args:
        gaussians: at rest.
        poses: from rest to world; a last row is not read.
        ids: which pose moves each Gaussian, in [0, K); a larger one gives NaN.

    Returns:
        The moved Gaussians, with a `linear`.

    Raises:
        ValueError: a shape is wrong.
    """
    rows = _rows("poses", poses)
    n = gaussians.means.shape[0]
    if ids.shape != (n,) or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"ids must be integers of shape {(n,)}, got {ids.dtype} {ids.shape}")
    return _move(gaussians, jnp.take(rows, ids, axis=0, mode="fill", fill_value=jnp.nan))


def move_skinned(
    gaussians: Gaussians,
    joints: Float[Array, "J 4 4"] | Float[Array, "J 3 4"],
    weights: Float[Array, "N J"],
) -> Gaussians:
    """Move each Gaussian by its blend of the joints' transforms (linear blend skinning).

    Differentiable in everything. The blend of rotations shrinks near a bent joint, and so do the
    Gaussians there.

    Args:
        gaussians: in the rest pose.
        joints: from rest pose to world, each joint's posed transform times the inverse of its
            rest transform; a last row is not read.
        weights: of each Gaussian's joints; rows sum to one.

    Returns:
        The moved Gaussians, with a `linear`.

    Raises:
        ValueError: a shape is wrong.
    """
    rows = _rows("joints", joints)
    shape = (gaussians.means.shape[0], joints.shape[0])
    if weights.shape != shape:
        raise ValueError(f"weights must have shape {shape}, got {weights.shape}")
    return _move(gaussians, jnp.matmul(weights, rows, precision=jax.lax.Precision.HIGHEST))


def _rows(name: str, transforms: Array) -> Float[Array, "K 12"]:
    if transforms.ndim != 3 or transforms.shape[1:] not in ((4, 4), (3, 4)):
        raise ValueError(f"{name} must have shape (K, 4, 4) or (K, 3, 4), got {transforms.shape}")
    return transforms[:, :3].reshape(-1, _TOP)


def _move(gaussians: Gaussians, affine: Float[Array, "N 12"]) -> Gaussians:
    rows = [[affine[:, 4 * i + j] for j in range(4)] for i in range(3)]
    x, y, z = (gaussians.means[:, j] for j in range(3))
    means = [a * x + b * y + c * z + t for a, b, c, t in rows]
    if gaussians.linear is None:
        linear = [entry for row in rows for entry in row[:3]]
    else:
        old = [[gaussians.linear[:, i, j] for i in range(3)] for j in range(3)]
        linear = [a * x + b * y + c * z for a, b, c, _ in rows for x, y, z in old]
    return dataclasses.replace(
        gaussians,
        means=jnp.stack(means, axis=1),
        linear=jnp.stack(linear, axis=1).reshape(-1, 3, 3),
    )
