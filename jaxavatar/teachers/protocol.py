"""What a video diffusion teacher offers (paper, sec. 3.3), whatever network is behind it.

    condition (once per clip) -> encode (frames to latents) -> predict (noisy latents to output)

All are pure functions of their arguments. `losses.score` computes eq. 8 from them,
`sampling.sample` draws clips. `remote` reaches a teacher in another process by the same functions.
"""

import dataclasses
from typing import Any, Protocol

import flax.struct
from jaxtyping import Array, Float

from jaxavatar.teachers.schedule import Prediction, Schedule

Params = Any
Condition = Any
"""A pytree of the teacher's own, every leaf with a leading axis B."""


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """What a teacher expects and predicts.

    Attributes:
        fps: frames per second it was trained on.
        frame_step: clips have frame_step n + first_frames frames.
        first_frames: see `frame_step`; 4 n + 1 for the causal video autoencoders.
        size_multiple: height and width of the frames are multiples of it, pixels.
        context: frames of speech that it wants to hear before and after the clip.
        schedule: of the noise.
        prediction: what the network's output is.
        drops: conditions that can be left out one by one, for guidance; in this order they are
            added to the unconditional prediction.
        shift: of the sampler's times, see `schedule.shift_time`.
    """

    fps: float = 25.0
    frame_step: int = 1
    first_frames: int = 0
    size_multiple: int = 1
    context: int = 0
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    prediction: Prediction = "velocity"
    drops: tuple[str, ...] = ("audio",)
    shift: float = 1.0

    def check_frames(self, shape: tuple[int, ...]) -> None:
        """Insist that frames of a shape [B, T, H, W, 3] fit the teacher.

        Raises:
            ValueError: they do not; the message names what would.
        """
        _, count, height, width, channels = shape
        beyond = count - self.first_frames
        if beyond < 0 or count < 1 or beyond % self.frame_step:
            raise ValueError(
                f"clips have {self.frame_step} n + {self.first_frames} frames, got {count}"
            )
        if height % self.size_multiple or width % self.size_multiple or channels != 3:
            raise ValueError(
                f"frames are RGB with sides of multiples of {self.size_multiple} pixels, got"
                f" {height} x {width} x {channels}"
            )


@flax.struct.dataclass
class Told:
    """What a teacher may be told of a clip before it makes a condition of it.

    Attributes:
        audio: speech features at the frame rate, of the T frames of the clip and
            `spec.context` more on either side; zeros where there is no speech.
        reference: a picture of the person, [0, 1].
        text: token embeddings of a description.
    """

    audio: Float[Array, "B T_context d_a"]
    reference: Float[Array, "B H W 3"]
    text: Float[Array, "B L d_z"] | None = None


class VideoTeacher(Protocol):
    """A video diffusion model."""

    @property
    def spec(self) -> TeacherSpec:
        """What it expects and predicts."""
        ...

    def condition(self, params: Params, told: Told) -> Condition:
        """Prepare what `predict` is conditioned on; once per clip, without gradients."""
        ...

    def drop(self, params: Params, condition: Condition, name: str) -> Condition:
        """Leave one of `spec.drops` out of a condition."""
        ...

    def encode(self, params: Params, frames: Float[Array, "B T H W 3"]) -> Float[Array, "B *Z"]:
        """Turn frames in [0, 1] into latents, differentiably."""
        ...

    def decode(self, params: Params, latents: Float[Array, "B *Z"]) -> Float[Array, "B T H W 3"]:
        """Turn latents into frames in [0, 1]."""
        ...

    def predict(
        self,
        params: Params,
        noisy: Float[Array, "B *Z"],
        tau: Float[Array, " B"],
        condition: Condition,
    ) -> Float[Array, "B *Z"]:
        """Return the network's output for noisy latents at times tau in (0, 1]."""
        ...


def guided(
    teacher: VideoTeacher,
    params: Params,
    noisy: Float[Array, "B *Z"],
    tau: Float[Array, " B"],
    condition: Condition,
    scales: tuple[float, ...],
) -> Float[Array, "B *Z"]:
    """Predict with classifier-free guidance (Ho and Salimans, 2022), one scale per condition.

    With conditions a, b (of `spec.drops`) and scales s_a, s_b the result is
    v(-, -) + s_a (v(a, -) - v(-, -)) + s_b (v(a, b) - v(a, -)). A scale of one needs no further
    evaluation. Evaluations run one after the other, in the memory of one.

    Raises:
        ValueError: the number of scales is not that of the conditions.
    """
    drops = teacher.spec.drops
    if len(scales) != len(drops):
        raise ValueError(f"one guidance scale for each of {drops}, got {scales}")
    # The telescoping sum, collected by evaluation: v with the first k conditions has the weight
    # s_k - s_{k+1}, where s_0 = 1 and s_{n+1} = 0.
    bounds = (1.0, *scales, 0.0)
    total: Any = None
    reduced = condition
    for known in range(len(drops), -1, -1):
        if (share := bounds[known] - bounds[known + 1]) != 0.0:
            output = share * teacher.predict(params, noisy, tau, reduced)
            total = output if total is None else total + output
        if known:
            reduced = teacher.drop(params, reduced, drops[known - 1])
    return total
