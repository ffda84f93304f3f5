"""The trainer's end of the socket: questions, answers, and what can go wrong with them."""

import socket
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxavatar.errors import InputError
from jaxavatar.teachers.remote import wire
from jaxavatar.teachers.remote.wire import Message

_PATIENCE = 10.0  # seconds that connecting may take


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
            except InputError:
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
