"""Metrics, times and traces are where other programs look for them."""

import json
import struct

import numpy as np
import pytest

from jaxavatar.training.reports import Reports, Stopwatch
from jaxavatar.training.tracing import Trace


def crc32c(data):
    """The checksum of RFC 3720, bit by bit, as TFRecord masks it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path):
    data = path.read_bytes()
    while data:
        length, check = struct.unpack("<QI", data[:12])
        assert check == crc32c(data[:8])
        record, data = data[12 : 12 + length], data[12 + length :]
        assert struct.unpack("<I", data[:4])[0] == crc32c(record)
        yield record
        data = data[4:]


def varint(data):
    value = shift = 0
    for count, byte in enumerate(data, 1):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, data[count:]
    raise AssertionError


def fields(data):
    """The fields of a protocol buffer as {number: last value}."""
    found = {}
    while data:
        key, data = varint(data)
        if key % 8 == 0:
            value, data = varint(data)
        elif key % 8 == 2:
            length, data = varint(data)
            value, data = data[:length], data[length:]
        else:
            size = {1: 8, 5: 4}[key % 8]
            (value,), data = struct.unpack("<d" if size == 8 else "<f", data[:size]), data[size:]
        found[key // 8] = value
    return found


def scalars(folder):
    """What TensorBoard shows: {(tag, step): value}; a restart at a step purges what was later."""
    shown = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        for event in map(fields, records(path)):
            step = event.get(2, 0)
            if 7 in event and fields(event[7])[1] == 1:  # SessionLog.START
                shown = {key: value for key, value in shown.items() if key[1] < step}
            if 5 in event:
                value = fields(fields(event[5])[1])
                shown[value[1].decode(), step] = value[2]
    return shown


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_in_json_lines_and_event_files(tmp_path):
    with Reports(tmp_path, 0) as reports:
        for step in (2, 4, 6):
            reports.add_metrics({"step": step, "loss": 1 / step, "psnr": 20.0 + step})
            reports.add_times({"step": step, "seconds": 0.25})
    # The run was interrupted, and goes on from step 4.
    with Reports(tmp_path, 4) as reports:
        assert [line["step"] for line in reports.history] == [2, 4]
        reports.add_metrics({"step": 5, "loss": 7.0, "psnr": 1.0})
    metrics = [
        {"step": 2, "loss": 1 / 2, "psnr": 22.0},
        {"step": 4, "loss": 1 / 4, "psnr": 24.0},
        {"step": 5, "loss": 7.0, "psnr": 1.0},
    ]
    assert lines(tmp_path / "metrics.jsonl") == metrics
    assert [line["step"] for line in lines(tmp_path / "times.jsonl")] == [2, 4]
    expected = {
        (f"metrics/{name}", line["step"]): line[name]
        for line in metrics
        for name in ("loss", "psnr")
    }
    assert scalars(tmp_path / "tensorboard") == expected | {
        ("times/seconds", step): 0.25 for step in (2, 4)
    }


def test_times_are_per_step_and_tell_the_first_step_apart(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def one(data, compute):
        with watch.part("data"):
            clock[0] += data
        clock[0] += compute
        watch.step()

    watch = Stopwatch()
    one(1.0, 40.0)
    for _ in range(4):
        one(0.1, 0.4)
    with watch.part("save"):
        clock[0] += 2.0
    first = {"step": 5, "first": 41.0, "seconds": 1.0, "data": 0.1, "save": 0.5, "draw": 0.0}
    assert watch.lap(5) == pytest.approx(first)
    one(0.2, 0.3)
    rest = {"step": 6, "seconds": 0.5, "data": 0.2, "save": 0.0, "draw": 0.0}
    assert watch.lap(6) == pytest.approx(rest)


def test_the_steps_asked_for_are_traced(tmp_path):
    with Trace(tmp_path, 3, 2) as trace:
        for number in range(1, 3):
            assert trace.run(number, np.add, number, 1) == number + 1
        assert not list(tmp_path.iterdir())
        for number in range(3, 6):
            trace.run(number, np.add, number, 1)
        (written,) = tmp_path.rglob("*.xplane.pb")
    content = written.read_bytes()
    assert b"step_num" in content and b"train" in content


def test_a_run_that_ends_early_still_has_its_trace(tmp_path):
    with Trace(tmp_path, 1, 5) as trace:
        trace.run(1, np.add, 1, 1)
    assert list(tmp_path.rglob("*.xplane.pb"))
