"""Draw clips from a flow teacher."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxavatar.teachers.protocol import Condition, Params, VideoTeacher, guided
from jaxavatar.teachers.schedule import shift_time


def sample(
    teacher: VideoTeacher,
    params: Params,
    key: jax.Array,
    shape: tuple[int, ...],
    condition: Condition,
    scales: tuple[float, ...],
    steps: int = 20,
) -> Float[Array, "B T H W 3"]:
    """Integrate dz/dtau = v from noise (tau = 1) to clips (tau = 0) by Euler's method.

    Args:
        teacher: of the flow schedule, which predicts velocities.
        params: its parameters.
        key: of the initial noise.
        shape: of the latents, [B, *Z].
        condition: from `teacher.condition`.
        scales: of guidance, one per entry of `teacher.spec.drops`.
        steps: evaluations.

    Returns:
        Frames, [0, 1].

    Raises:
        ValueError: the teacher predicts something else than velocities.
    """
    if teacher.spec.prediction != "velocity":
        raise ValueError(
            f"only teachers that predict velocities are sampled, not {teacher.spec.prediction!r}"
        )
    times = shift_time(jnp.linspace(1.0, 0.0, steps + 1), teacher.spec.shift)

    def advance(
        latents: Float[Array, "B *Z"], ends: Float[Array, " 2"]
    ) -> tuple[Float[Array, "B *Z"], None]:
        tau = jnp.full(shape[:1], ends[0], latents.dtype)
        velocity = guided(teacher, params, latents, tau, condition, scales)
        return latents + (ends[1] - ends[0]) * velocity, None

    noise = jax.random.normal(key, shape)
    latents, _ = jax.lax.scan(advance, noise, jnp.stack([times[:-1], times[1:]], axis=1))
    return jnp.clip(teacher.decode(params, latents), 0.0, 1.0)
