"""Answer a trainer's questions with a network of any framework; needs numpy alone.

    with Server(MyTeacher(), "127.0.0.1:5005") as server:
        server.run()

There is no password and no encryption: who reaches the socket can use the teacher. Stay with this
machine or a Unix socket, and reach other machines through a tunnel (`ssh -L`).
"""

import contextlib
import os
import pathlib
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np

from jaxavatar.teachers.remote import wire
from jaxavatar.teachers.remote.wire import Message

Arrays = Mapping[str, np.ndarray]

_IDLE = 0.05  # seconds after which the server looks whether it should stop


class Served(Protocol):
    """The functions of a teacher; arrays are numpy's, batch first, as in `protocol.VideoTeacher`.

    An exception that they raise is told to the trainer, and the server goes on.
    """

    @property
    def spec(self) -> Mapping[str, Any]:
        """`TeacherSpec` as JSON: {"fps": 25, ..., "schedule": "flow"}; defaults may be left out."""
        ...

    def latent_shape(self, frames: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape [B, *Z] of the latents of frames of a shape [B, T, H, W, 3]."""
        ...

    def condition(
        self, audio: np.ndarray, reference: np.ndarray, text: np.ndarray | None
    ) -> Arrays:
        """Make the arrays, each with a leading axis B, that `predict` is given back."""
        ...

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Turn frames [B, T, H, W, 3] in [0, 1] into latents [B, *Z]."""
        ...

    def encode_transpose(self, frames: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
        """Return d<cotangent, encode(frames)>/dframes, in the shape of the frames."""
        ...

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Turn latents into frames."""
        ...

    def predict(
        self, noisy: np.ndarray, tau: np.ndarray, condition: Arrays, without: tuple[str, ...]
    ) -> np.ndarray:
        """Return the network's output in the shape of `noisy`, some conditions left out."""
        ...


class Server:
    """A listening socket; a context manager. Connections are answered side by side, calls not.

    Args:
        teacher: what answers.
        address: "HOST:PORT" (port 0 takes a free one) or "unix:PATH", a file that only this user
            may open.

    Attributes:
        address: what to connect to.

    Raises:
        ValueError: the address is neither.
        OSError: it cannot be listened at.
    """

    def __init__(self, teacher: Served, address: str = "127.0.0.1:0"):
        self._teacher = teacher
        self._one_at_a_time = threading.Lock()
        self._running = threading.Lock()
        self._stopped = threading.Event()
        place = wire.split_address(address)
        if isinstance(place, str):
            self._socket = _private_socket(place)
            self.address = address
        else:
            self._socket = socket.create_server(place)
            self.address = "{}:{}".format(*self._socket.getsockname()[:2])
        self._socket.settimeout(_IDLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        with self._running:
            self._socket.close()
        place = wire.split_address(self.address)
        if isinstance(place, str):
            pathlib.Path(place).unlink(missing_ok=True)

    def stop(self) -> None:
        """Let `run` return, from another thread or a signal handler."""
        self._stopped.set()

    def run(self) -> None:
        """Answer until `stop`."""
        with self._running:
            while not self._stopped.is_set():
                try:
                    channel, _ = self._socket.accept()
                except TimeoutError:
                    continue
                channel.settimeout(None)
                threading.Thread(target=self._converse, args=(channel,), daemon=True).start()

    def _converse(self, channel: socket.socket) -> None:
        """Answer one connection until it ends."""
        with channel, contextlib.suppress(OSError):
            while True:
                try:
                    asked = wire.receive(channel)
                except wire.WireError as error:
                    # What follows in the stream has no known meaning.
                    wire.send(
                        channel, Message({"error": f"the request was not understood: {error}"})
                    )
                    return
                if asked is None:
                    return
                with self._one_at_a_time:
                    reply = _answer(self._teacher, asked)
                try:
                    wire.send(channel, reply)
                except wire.WireError as error:
                    wire.send(channel, Message({"error": f"the answer cannot be sent: {error}"}))


def serve(teacher: Served, address: str = "127.0.0.1:0") -> None:
    """Answer at an address until interrupted; print the address first. See `Server`."""
    with Server(teacher, address) as server, contextlib.suppress(KeyboardInterrupt):
        print(server.address, flush=True)
        server.run()


def _answer(teacher: Served, asked: Message) -> Message:
    call = asked.fields.get("call")
    known: dict[str, Callable[[Served, Message], Message]] = {
        "spec": _spec,
        "latent_shape": _latent_shape,
        "condition": _condition,
        "encode": _encode,
        "encode_transpose": _encode_transpose,
        "decode": _decode,
        "predict": _predict,
    }
    if not isinstance(call, str) or call not in known:
        return Message({"error": f"there is no call {call!r}; known: {', '.join(known)}"})
    try:
        return known[call](teacher, asked)
    except KeyError as error:
        return Message({"error": f"{call} failed: {error} is missing"})
    except Exception as error:  # whatever a network raises, its trainer should hear of
        return Message({"error": f"{call} failed: {type(error).__name__}: {error}"[:2000]})


def _spec(teacher: Served, asked: Message) -> Message:
    return Message({"spec": dict(teacher.spec)})


def _latent_shape(teacher: Served, asked: Message) -> Message:
    frames = tuple(int(side) for side in asked.fields["frames"])
    return Message({"shape": [int(side) for side in teacher.latent_shape(frames)]})


def _condition(teacher: Served, asked: Message) -> Message:
    told = asked.arrays
    made = teacher.condition(told["audio"], told["reference"], told.get("text"))
    return Message({}, {name: np.asarray(array) for name, array in made.items()})


def _encode(teacher: Served, asked: Message) -> Message:
    return _one(teacher.encode(asked.arrays["frames"]))


def _encode_transpose(teacher: Served, asked: Message) -> Message:
    return _one(teacher.encode_transpose(asked.arrays["frames"], asked.arrays["cotangent"]))


def _decode(teacher: Served, asked: Message) -> Message:
    return _one(teacher.decode(asked.arrays["latents"]))


def _predict(teacher: Served, asked: Message) -> Message:
    # Names of the condition's arrays are the teacher's own; the prefix keeps them apart.
    condition = {
        name.removeprefix("condition."): array
        for name, array in asked.arrays.items()
        if name.startswith("condition.")
    }
    without = tuple(str(name) for name in asked.fields["without"])
    return _one(teacher.predict(asked.arrays["noisy"], asked.arrays["tau"], condition, without))


def _one(result: np.ndarray) -> Message:
    return Message({}, {"result": np.asarray(result)})


def _private_socket(path: str) -> socket.socket:
    """Listen at a Unix socket that nobody else may open, in place of one left behind."""
    with contextlib.suppress(FileNotFoundError):
        if pathlib.Path(path).is_socket():
            pathlib.Path(path).unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(path)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
    listening.listen()
    return listening
