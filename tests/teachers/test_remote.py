"""A teacher in another process equals the same teacher here, and its failures are one sentence."""

import contextlib
import functools
import importlib.util
import json
import pathlib
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar.errors import InputError
from jaxavatar.losses.score import ScoreConfig, frame_gradient, score_distillation
from jaxavatar.teachers.protocol import TeacherSpec, Told
from jaxavatar.teachers.remote import wire
from jaxavatar.teachers.remote.client import connect
from jaxavatar.teachers.remote.server import Server

HELPER = pathlib.Path(__file__).parents[1] / "helpers" / "remote_teacher.py"
FRAMES = (2, 3, 8, 8, 3)
CONFIG = ScoreConfig(lowest=0.3, highest=0.9, guidance=(2.0, 3.0))


@pytest.fixture(scope="module")
def helper():
    spec = importlib.util.spec_from_file_location("remote_teacher", HELPER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(address: str, kind: str) -> tuple[subprocess.Popen, str]:
    command = [sys.executable, str(HELPER), address, kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def stop(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def address():
    process, address = start("127.0.0.1:0", "numpy")
    yield address
    stop(process)


class Local:
    """The helper's function in jax, in this process."""

    spec = TeacherSpec(drops=("text", "audio"), context=1)

    def __init__(self, numpy_teacher):
        self.mix, self.hear = numpy_teacher.mix, numpy_teacher.hear

    def condition(self, params: Any, told):
        heard = jnp.tanh(told.audio[:, 1:-1] @ self.hear)
        return {"heard": heard, "noisy": told.reference.mean((1, 2)) @ self.mix}

    def drop(self, params: Any, condition, name):
        key = {"audio": "heard", "text": "noisy"}[name]
        return condition | {key: jnp.zeros_like(condition[key])}

    def encode(self, params: Any, frames):
        b, t, h, w, _ = frames.shape
        pooled = frames.reshape(b, t, h // 2, 2, w // 2, 2, 3).mean((3, 5))
        return jnp.tanh(pooled @ self.mix)

    def decode(self, params: Any, latents):
        raise NotImplementedError

    def predict(self, params: Any, noisy, tau, condition):
        spread = condition["heard"][:, :, None, None] + condition["noisy"][:, None, None, None]
        return jnp.sin(noisy) * tau[:, None, None, None, None] + spread


def example():
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.random(FRAMES), jnp.float32)
    told = Told(
        jnp.asarray(rng.normal(size=(2, 5, 6)), jnp.float32),
        jnp.asarray(rng.random((2, 8, 8, 3)), jnp.float32),
    )
    return frames, told


def check_against_local(teacher, local) -> None:
    """Value and gradient of the compiled score loss, within float32's rounding."""
    frames, told = example()
    losses = []
    for each in (local, teacher):
        condition = each.condition((), told)

        @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
        @jax.value_and_grad
        def loss(frames, condition, each=each):
            gradient = frame_gradient(each, (), condition, CONFIG)
            return score_distillation(gradient, frames, jax.random.key(4, impl="rbg"))

        losses.append(loss(frames, condition))
    (expected, slope), (actual, remote_slope) = losses
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)
    scale = float(jnp.abs(slope).max())
    assert scale > 1e-4
    np.testing.assert_allclose(remote_slope, slope, atol=1e-5 * scale)


def test_score_loss_equals_the_local_teachers(address, helper):
    with connect(address) as teacher:
        assert teacher.spec == Local.spec
        check_against_local(teacher, Local(helper.NumpyTeacher()))


def test_torch_teacher(tmp_path, helper):
    pytest.importorskip("torch")
    process, address = start(f"unix:{tmp_path}/teacher", "torch")
    try:
        with connect(address) as teacher:
            check_against_local(teacher, Local(helper.NumpyTeacher()))
    finally:
        stop(process)


def test_values_cross_bitwise(address, helper):
    """What arrives is what the same functions return here, bit by bit."""
    own = helper.NumpyTeacher()
    frames, told = example()
    with connect(address) as teacher:
        latents = jax.jit(lambda x: teacher.encode((), x))(frames)
        np.testing.assert_array_equal(latents, own.encode(np.asarray(frames)))
        condition = teacher.condition((), told)
        expected = own.condition(np.asarray(told.audio), np.asarray(told.reference), None)
        for name, array in expected.items():
            np.testing.assert_array_equal(condition.arrays[name], array)
        tau = jnp.array([0.3, 0.7])
        for without in ((), ("text",), ("text", "audio")):
            reduced = condition
            for name in without:
                reduced = teacher.drop((), reduced, name)
            actual = teacher.predict((), latents, tau, reduced)
            made = own.predict(np.asarray(latents), np.asarray(tau), expected, without)
            np.testing.assert_array_equal(actual, made)
        shown = teacher.decode((), latents)
        np.testing.assert_array_equal(shown, own.decode(np.asarray(latents)))
        with pytest.raises(ValueError, match="can be left out, not 'pose'"):
            teacher.drop((), condition, "pose")


def test_transpose_by_finite_differences(address):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True), connect(address) as teacher:
        frames, way = (jnp.asarray(rng.random(FRAMES)) for _ in range(2))
        weights = jnp.asarray(rng.normal(size=(2, 3, 4, 4, 4)))

        def measure(x):
            return jnp.sum(weights * teacher.encode((), x))

        slope = (measure(frames + 1e-5 * way) - measure(frames - 1e-5 * way)) / 2e-5
        assert float(jnp.sum(jax.grad(measure)(frames) * way)) == pytest.approx(
            float(slope), rel=1e-7
        )


def test_large_arrays_batches_and_low_precision(address):
    """vmap asks clip by clip; bfloat16 travels as float32. 19 MB must not deadlock one core."""
    with connect(address) as teacher:
        many = jnp.ones((2, 1, 16, 224, 224, 3))
        result = jax.jit(jax.vmap(lambda x: teacher.encode((), x)))(many)
        assert result.shape == (2, 1, 16, 112, 112, 4)
        half = teacher.encode((), jnp.ones(FRAMES, jnp.bfloat16))
        assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("tau", "message"),
    [
        (0.995, r"answers 'predict' with NaN or infinite numbers in 'result'"),
        (0.985, r"answers 'predict' with the shape \(2, 3, 4, 4, 1\) instead of \(2, 3, 4, 4, 4\)"),
        (0.975, r"refuses: predict failed: MemoryError: out of memory"),
    ],
)
def test_bad_answers(address, tau, message):
    _, told = example()
    with (
        pytest.raises(InputError, match=rf"^the video teacher at {address} {message}$"),
        connect(address) as teacher,
    ):
        condition = teacher.condition((), told)
        predict = jax.jit(lambda z: teacher.predict((), z, jnp.full(2, tau), condition))
        jax.block_until_ready(predict(jnp.zeros((2, 3, 4, 4, 4))))


def test_death_of_the_server_is_one_sentence(caplog):
    process, address = start("127.0.0.1:0", "numpy")
    frames, _ = example()
    with (
        pytest.raises(InputError, match=r"is gone.*; start it again and resume$") as caught,
        connect(address) as teacher,
    ):
        encode = jax.jit(lambda x: teacher.encode((), x))
        jax.block_until_ready(encode(frames))
        stop(process)
        jax.block_until_ready(encode(frames))
    assert "\n" not in str(caught.value)
    assert "pure_callback failed" not in caplog.text
    with pytest.raises(InputError, match=rf"no video teacher answers at {address} \(.*refused"):
        connect(address).__enter__()


# --- what strangers send


def answering(reply: bytes) -> str:
    """Answer the first connection's first bytes with these; return the address."""
    listening = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with contextlib.suppress(OSError), listening, listening.accept()[0] as channel:
            channel.recv(4096)
            channel.sendall(reply)
            channel.recv(4096)

    threading.Thread(target=run, daemon=True).start()
    return f"127.0.0.1:{listening.getsockname()[1]}"


def packed(header: object, version: int = wire.VERSION, magic: bytes = wire.MAGIC) -> bytes:
    content = json.dumps(header).encode()
    return struct.pack("<4sII", magic, version, len(content)) + content


def described(**changed) -> dict:
    entry = {"name": "a", "dtype": "float32", "shape": [1]} | changed
    return {"fields": {}, "arrays": [entry]}


STRANGE = [
    (packed({}, version=2), "speaks version 2 of the teacher protocol, not 1"),
    (packed({}, magic=b"HTTP"), "does not speak the teacher protocol"),
    (struct.pack("<4sII", wire.MAGIC, 1, 2**30), "a header of 1073741824 bytes is longer"),
    (packed([]), "not the JSON object"),
    (packed(described(shape=[2**40])), "bytes are more than"),
    (packed(described(shape=[-1])), "has the shape"),
    (packed(described(shape=[1] * 9)), "at most 8 numbers"),
    (packed(described(dtype="object")), "is of 'object', not one of"),
    (packed(described(dtype=["float32"])), "not one of"),
    (packed({"fields": {}, "arrays": [{}] * 65}), "65 arrays are more than 64"),
]


@pytest.mark.parametrize(("sent", "message"), STRANGE)
def test_strange_answers(sent, message):
    with pytest.raises(InputError, match=message), connect(answering(sent)):
        pass


def test_strange_requests_leave_the_server_alive(helper):
    with Server(helper.NumpyTeacher()) as server:
        threading.Thread(target=server.run, daemon=True).start()
        place = wire.split_address(server.address)
        assert isinstance(place, tuple)
        for sent, message in STRANGE:
            with socket.create_connection(place, 5) as channel:
                channel.sendall(sent)
                reply = wire.receive(channel)
                assert reply is not None and message.split(" ")[-1] in reply.fields["error"]
        with socket.create_connection(place, 5) as channel:
            channel.sendall(packed(described())[:20])  # hangs up in the middle
        with socket.create_connection(place, 5) as channel:
            for call in ("__class__", None, "encode"):
                wire.send(channel, wire.Message({"call": call}))
                reply = wire.receive(channel)
                assert reply is not None and reply.fields["error"]
        with connect(server.address) as teacher:
            assert teacher.spec.context == 1


def test_silence_times_out():
    with (
        pytest.raises(InputError, match=r"did not answer 'spec' within 0.2 s; wait longer"),
        connect(answering(b""), timeout=0.2),
    ):
        pass


def test_unknown_descriptions(helper):
    for spec, message in (
        ({"colour": 1}, "describes itself by"),
        ({"schedule": "linear"}, "has the schedule 'linear'"),
    ):
        teacher = helper.NumpyTeacher()
        teacher.spec = spec
        with Server(teacher) as server:
            threading.Thread(target=server.run, daemon=True).start()
            with pytest.raises(InputError, match=message), connect(server.address):
                pass


def test_unix_sockets_are_private(tmp_path, helper):
    path = tmp_path / "teacher"
    for _ in range(2):  # the second time in place of one left behind
        with Server(helper.NumpyTeacher(), f"unix:{path}") as server:
            assert path.stat().st_mode & 0o777 == 0o600
            threading.Thread(target=server.run, daemon=True).start()
            with connect(server.address) as teacher:
                assert teacher.spec == Local.spec
        assert not path.exists()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    for wrong in ("teacher", "localhost:http", "unix:", "localhost:70000"):
        with pytest.raises(ValueError, match="neither HOST:PORT nor unix:PATH"):
            wire.split_address(wrong)
    assert wire.split_address(":5005") == ("127.0.0.1", 5005)
