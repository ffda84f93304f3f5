"""Triangle meshes."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def vertex_normals(vertices: Float[Array, "V 3"], faces: Int[Array, "F 3"]) -> Float[Array, "V 3"]:
    """Average the normals of each vertex's triangles, weighted by their area.

    Args:
        vertices: positions.
        faces: triangles, counter-clockwise seen from outside.

    Returns:
        Unit normals pointing outwards; zero where a vertex has no triangle of any area.
    """
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    doubled_areas = jnp.cross(b - a, c - a)
    total = jnp.zeros_like(vertices).at[faces.reshape(-1)].add(jnp.repeat(doubled_areas, 3, axis=0))
    square = jnp.sum(total**2, axis=-1, keepdims=True)
    # The inner where keeps the gradient finite where the normal is zero.
    return total / jnp.sqrt(jnp.where(square > 0, square, 1.0))
