"""A teacher in another process as a `VideoTeacher`: see docs/teacher_protocol.md.

    with connect("127.0.0.1:5005") as teacher:
        condition = teacher.condition((), told)
        gradient = frame_gradient(teacher, (), condition, config)

Its parameters stay with it: `Params` is the empty tuple. `encode` and `predict` are pure callbacks,
which work under jit, scan and vmap; `encode` is differentiable once, in reverse mode. `condition`
and `decode` are asked at once, outside compiled code.

Exceptions inside compiled code reach Python as jax's own, with much around them. The `with` block
turns them back into the one sentence that says what went wrong, and closes the connection.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.teachers.protocol import TeacherSpec, Told
from jaxavatar.teachers.remote.connection import Connection
from jaxavatar.teachers.schedule import Prediction, Schedule

Nothing = tuple[()]


@flax.struct.dataclass
class RemoteCondition:
    """A condition.

    Attributes:
        arrays: of the teacher's own making, each with a leading axis B.
        without: what is left out.
    """

    arrays: dict[str, Float[Array, "B ..."]]
    without: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())


@dataclasses.dataclass(frozen=True, eq=False)
class RemoteTeacher:
    """The teacher at the other end of a connection; a `VideoTeacher`.

    Attributes:
        spec: told by the teacher.
        connection: to it.
    """

    spec: TeacherSpec
    connection: Connection

    def condition(self, params: Nothing, told: Told) -> RemoteCondition:
        """Have a condition made, at once: `told` holds numbers, not what jit traces.

        Raises:
            InputError: the teacher fails, or its arrays lack the leading axis B.
        """
        arrays = {"audio": told.audio, "reference": told.reference}
        if told.text is not None:
            arrays["text"] = told.text
        made = self.connection.call("condition", arrays).arrays
        for name, array in made.items():
            if array.shape[:1] != told.audio.shape[:1]:
                raise self.connection.fail(
                    f"makes a condition {name!r} of shape {array.shape} for {len(told.audio)} clips"
                )
        return RemoteCondition({name: jnp.asarray(array) for name, array in made.items()})

    def drop(self, params: Nothing, condition: RemoteCondition, name: str) -> RemoteCondition:
        """Leave a condition out of the predictions.

        Raises:
            ValueError: the teacher has no such condition.
        """
        if name not in self.spec.drops:
            raise ValueError(f"only {self.spec.drops} can be left out, not {name!r}")
        return dataclasses.replace(condition, without=(*condition.without, name))

    def encode(self, params: Nothing, frames: Float[Array, "B T H W 3"]) -> Float[Array, "B *Z"]:
        """Turn frames in [0, 1] into latents; its transpose is the teacher's too."""
        return _encode(self, frames)

    def decode(self, params: Nothing, latents: Float[Array, "B *Z"]) -> Float[Array, "B T H W 3"]:
        """Turn latents into frames in [0, 1].

        Their shape is not known from that of the latents, so this works outside jit only.
        """
        result = self.connection.call("decode", {"latents": latents}).arrays.get("result")
        if result is None or result.ndim != 5:
            raise self.connection.fail("decodes to something else than frames [B, T, H, W, 3]")
        return jnp.asarray(result, latents.dtype)

    def predict(
        self,
        params: Nothing,
        noisy: Float[Array, "B *Z"],
        tau: Float[Array, " B"],
        condition: RemoteCondition,
    ) -> Float[Array, "B *Z"]:
        """Return the network's output for noisy latents at times tau in (0, 1]."""
        arrays = {f"condition.{name}": value for name, value in condition.arrays.items()}
        arrays |= {"noisy": noisy, "tau": tau}
        return self._callback("predict", arrays, noisy.shape, {"without": condition.without})

    def latent_shape(self, frames: tuple[int, ...]) -> tuple[int, ...]:
        """Ask for the shape of the latents of frames of a shape; while tracing, not later."""
        shape = self.connection.call("latent_shape", fields={"frames": frames}).fields.get("shape")
        if not isinstance(shape, list) or not all(type(side) is int for side in shape):
            raise self.connection.fail(f"names {shape!r} as a shape of latents")
        return tuple(shape)

    def _callback(
        self,
        name: str,
        arrays: dict[str, Array],
        shape: tuple[int, ...],
        fields: Mapping[str, Any] | None = None,
    ) -> Array:
        """Call from compiled code; the result has the type of the first floating argument."""
        dtype = (arrays["noisy"] if "noisy" in arrays else arrays["frames"]).dtype

        def ask(given: Mapping[str, Any]) -> np.ndarray:
            result = self.connection.call(name, given, fields).arrays.get("result")
            if result is None or result.shape != shape:
                got = "nothing" if result is None else f"the shape {result.shape}"
                raise self.connection.fail(f"answers {name!r} with {got} instead of {shape}")
            return result.astype(dtype)

        return jax.pure_callback(
            ask, jax.ShapeDtypeStruct(shape, dtype), arrays, vmap_method="sequential"
        )


@contextlib.contextmanager
def connect(address: str, timeout: float = 600.0) -> Iterator[RemoteTeacher]:
    """Connect to a teacher for the length of a block.

    Args:
        address: "HOST:PORT" or "unix:PATH".
        timeout: seconds that an answer may take.

    Yields:
        The teacher.

    Raises:
        ValueError: the address is neither.
        InputError: (from the block too) nobody answers, the versions differ, or a call failed.
    """
    connection = Connection(address, timeout)
    # Jax logs a traceback of its own for what a callback raises.
    log = logging.getLogger("jax._src.callback")

    def foreign(record: logging.LogRecord) -> bool:
        return record.exc_info is None or record.exc_info[1] is not connection.failure

    log.addFilter(foreign)
    try:
        yield RemoteTeacher(_spec(connection), connection)
    except Exception as error:
        # Its type depends on how the compiled code was called.
        if connection.failure is None or str(connection.failure) not in str(error):
            raise
        raise connection.failure from None
    finally:
        log.removeFilter(foreign)
        connection.close()


def _spec(connection: Connection) -> TeacherSpec:
    told = connection.call("spec").fields.get("spec")
    names = {field.name for field in dataclasses.fields(TeacherSpec)}
    if not isinstance(told, dict) or not set(told) <= names:
        raise connection.fail(f"describes itself by {told!r}; known are {sorted(names)}")
    spec = TeacherSpec(
        **told
        | {
            "schedule": Schedule(told.get("schedule", "flow")),
            "drops": tuple(told.get("drops", TeacherSpec().drops)),
        }
    )
    if spec.schedule.kind not in ("flow", "cosine") or spec.prediction not in get_args(Prediction):
        raise connection.fail(
            f"has the schedule {spec.schedule.kind!r} and predicts {spec.prediction!r};"
            f" known are flow and cosine, and {', '.join(get_args(Prediction))}"
        )
    return spec


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _encode(teacher: RemoteTeacher, frames: Float[Array, "B T H W 3"]) -> Float[Array, "B *Z"]:
    shape = teacher.latent_shape(frames.shape)
    return teacher._callback("encode", {"frames": frames}, shape)


def _encode_forward(
    teacher: RemoteTeacher, frames: Float[Array, "B T H W 3"]
) -> tuple[Float[Array, "B *Z"], Float[Array, "B T H W 3"]]:
    return _encode(teacher, frames), frames


def _encode_backward(
    teacher: RemoteTeacher, frames: Float[Array, "B T H W 3"], cotangent: Float[Array, "B *Z"]
) -> tuple[Float[Array, "B T H W 3"]]:
    arrays = {"frames": frames, "cotangent": cotangent}
    return (teacher._callback("encode_transpose", arrays, frames.shape),)


_encode.defvjp(_encode_forward, _encode_backward)
