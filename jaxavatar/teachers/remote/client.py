"""A teacher in another process as a `VideoTeacher`: see docs/teacher_protocol.md.

    with connect("127.0.0.1:5005") as teacher:
        condition = teacher.condition((), told)
        gradient = frame_gradient(teacher, (), condition, config)

Its parameters stay with it: `Params` is the empty tuple. Every function is a pure callback, so it
works under jit, scan and vmap; `encode` is differentiable once, in reverse mode.

Exceptions inside compiled code reach Python as jax's own, with much around them. The `with` block
turns them back into the one sentence that says what went wrong, and closes the connection.
"""

import contextlib
import dataclasses
import functools
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxavatar.errors import InputError
from jaxavatar.teachers.protocol import TeacherSpec, Told
from jaxavatar.teachers.remote import wire
from jaxavatar.teachers.remote.wire import Message
from jaxavatar.teachers.schedule import Prediction, Schedule

Nothing = tuple[()]
_PATIENCE = 10.0  # seconds that connecting may take


@flax.struct.dataclass
class RemoteCondition:
    """A condition.

    Attributes:
        arrays: of the teacher's own making, each with a leading axis B.
        without: what is left out.
    """

    arrays: dict[str, Float[Array, "B ..."]]
    without: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())


class Connection:
    """Questions and answers over one socket, one at a time.

    After a failure every further call fails with the same message: the stream may be out of step.

    Attributes:
        address: of the teacher.
        failure: what went wrong, if anything.
    """

    def __init__(self, address: str, timeout: float):
        self.address = address
        self.failure: InputError | None = None
        self._one_at_a_time = threading.Lock()
        try:
            self._socket = _dial(address)
        except OSError as error:
            raise InputError(
                f"no video teacher answers at {address} ({_said(error)}); start its server first"
            ) from error
        self._socket.settimeout(timeout)

    def call(
        self,
        name: str,
        arrays: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Message:
        """Ask, and return the answer, whose arrays are finite.

        Raises:
            InputError: the teacher is gone, too slow, refuses, or answers with NaN.
        """
        with self._one_at_a_time:
            if self.failure is not None:
                raise self.failure
            try:
                return self._ask(name, arrays or {}, fields or {})
            except InputError as error:
                self.failure = error
                self._socket.close()
                raise

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def fail(self, reason: str) -> InputError:
        """Remember and return an error that the teacher's answer is to blame for."""
        self.failure = InputError(f"the video teacher at {self.address} {reason}")
        return self.failure

    def _ask(self, name: str, arrays: Mapping[str, Any], fields: Mapping[str, Any]) -> Message:
        try:
            given = {key: _portable(np.asarray(value)) for key, value in arrays.items()}
            wire.send(self._socket, Message({"call": name, **fields}, given))
            answer = wire.receive(self._socket)
        except TimeoutError as error:
            raise self.fail(
                f"did not answer {name!r} within {self._socket.gettimeout():g} s; wait longer"
                " for it or show it smaller clips"
            ) from error
        except wire.WireError as error:
            raise self.fail(f"cannot be understood: {error}; use matching versions") from error
        except OSError as error:
            raise self.fail(f"is gone ({_said(error)}); start it again and resume") from error
        if answer is None:
            raise self.fail("is gone; start it again and resume")
        if "error" in answer.fields:
            raise self.fail(f"refuses: {answer.fields['error']}")
        for key, array in answer.arrays.items():
            if not np.isfinite(array).all():
                raise self.fail(f"answers {name!r} with NaN or infinite numbers in {key!r}")
        return answer


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


def _dial(address: str) -> socket.socket:
    place = wire.split_address(address)
    if isinstance(place, tuple):
        return socket.create_connection(place, _PATIENCE)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.settimeout(_PATIENCE)
        channel.connect(place)
    except OSError:
        channel.close()
        raise
    return channel


def _portable(array: np.ndarray) -> np.ndarray:
    """Return an array of a type that the wire knows: bfloat16 becomes float32, exactly."""
    return array if array.dtype.name in wire.DTYPES else array.astype(np.float32)


def _said(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
