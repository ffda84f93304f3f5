import dataclasses
import errno
import io
import json
import os
import pathlib
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxavatar import avatar_file
from jaxavatar.avatar_file import load_avatar, save_avatar
from jaxavatar.errors import InputError
from jaxavatar.structs import Avatar, BodyPose

INFO = {"photo": "käthe.jpg", "steps": 3, "psnr": 31.5, "messages": ["no hands"]}


@pytest.fixture
def avatar() -> Avatar:
    r = np.random.default_rng(0)
    n, f = 400, 150

    def normal(*shape: int):
        return jnp.asarray(r.normal(size=shape), jnp.float32)

    weights = np.exp(4 * r.normal(size=(n, 55))).astype(np.float32)
    return Avatar(
        means=normal(n, 3),
        quats=normal(n, 4),
        scales=jnp.exp(normal(n, 3) - 6),
        opacities=jnp.asarray(r.random(n), jnp.float32),
        colors=jnp.asarray(r.random((n, 3)), jnp.float32).at[0].set(1.0),
        weights=jnp.asarray(weights / weights.sum(-1, keepdims=True)),
        face_units=0.02 * normal(f, 52, 3),
        template_points=normal(n, 3),
        anchors=jnp.arange(0, n, 7),
        landmarks=jnp.array([3, 1, 4, 1, 5]),
        joints=normal(55, 3),
        rest=BodyPose(normal(55, 3), normal(3), jnp.zeros(52)),
        photo_expression=jnp.abs(normal(52)),
        K=jnp.array([[500.0, 0, 128], [0, 500, 160], [0, 0, 1]]),
        n_face=f,
        n_hand=60,
        image_size=(320, 256),
    )


def entries(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def write(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def message(path) -> str:
    with pytest.raises(InputError) as caught:
        load_avatar(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


def test_round_trip(tmp_path, avatar):
    path = tmp_path / "kaethe.avatar"
    save_avatar(path, avatar, INFO)
    loaded, info = load_avatar(path)
    assert info == INFO
    assert jax.tree.structure(loaded) == jax.tree.structure(avatar)  # static fields included
    rounded = {"opacities": 2.5e-4, "colors": 2.5e-4, "weights": 5e-4, "face_units": 4e-5}
    for field in dataclasses.fields(Avatar):
        got, want = getattr(loaded, field.name), getattr(avatar, field.name)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            a, b = np.asarray(a), np.asarray(b)
            assert a.dtype == b.dtype, field.name
            np.testing.assert_allclose(a, b, rtol=0, atol=rounded.get(field.name, 0))
    np.testing.assert_allclose(loaded.weights.sum(-1), 1, atol=1e-6)
    # Rounding stays below half a step of 8-bit colour and a tenth of a millimetre.
    assert rounded["colors"] < 0.5 / 255 and rounded["face_units"] < 1e-4


def test_same_avatar_same_bytes(tmp_path, avatar):
    for name in ("a", "b"):
        save_avatar(tmp_path / name, avatar, INFO)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_notes_may_hold_array_numbers(tmp_path, avatar):
    save_avatar(tmp_path / "a", avatar, {"loss": np.float32(0.5), "at": jnp.arange(2)})
    assert load_avatar(tmp_path / "a")[1] == {"loss": 0.5, "at": [0, 1]}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("means", lambda a: a.astype(np.float64), "type float64"),
        ("means", lambda a: a[:-1], "of shape (400, 4)"),  # the next array disagrees with N
        ("quats", lambda a: 0 * a, "orientation"),
        ("joints", lambda a: a[:54], "shape (54, 3)"),
        ("face_units", lambda a: a[:-1], "shape (149, 52, 3)"),
        ("colors", lambda a: np.full_like(a, np.nan), "not finite"),
        ("K", lambda a: a / 0, "not finite"),
        ("scales", lambda a: -a, "out of range"),
        ("opacities", lambda a: 2 + a, "out of range"),
        ("weights", lambda a: a / 2, "sum to one"),
        ("anchors", lambda a: a + 399, "beyond the 400"),
        ("landmarks", lambda a: a - 2, "out of range"),
        ("rest.rotations", lambda a: a.ravel(), "shape (165,)"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_every_array_is_checked(tmp_path, avatar, name, change, said):
    path = tmp_path / "p.avatar"
    save_avatar(path, avatar, {})
    arrays = entries(path)
    arrays[name] = change(arrays[name])
    write(path, arrays)
    assert said in message(path)


@pytest.mark.parametrize("name", avatar_file.ARRAYS)
def test_missing_and_non_finite(tmp_path, avatar, name):
    path = tmp_path / "p.avatar"
    save_avatar(path, avatar, {})
    arrays = entries(path)
    array = arrays.pop(name)
    write(path, arrays)
    assert f"{name} is missing" in message(path)
    if array.dtype.kind == "f":
        array.flat[-1] = np.inf
        write(path, arrays | {name: array})
        assert f"{name} is not finite" in message(path)


def rewrite_header(path: pathlib.Path, **changes) -> None:
    arrays = entries(path)
    header = json.loads(arrays["header"].tobytes()) | changes
    write(path, arrays | {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "update jaxavatar"),
        ({"version": "1"}, "version"),
        ({"format": "other"}, "not an avatar"),
        ({"n_face": None}, "sizes"),
        ({"image_size": [1]}, "sizes"),
        ({"n_hand": 251}, "401 in its regions"),
        ({"info": 0}, "notes"),
    ],
)
def test_header(tmp_path, avatar, changes, said):
    path = tmp_path / "p.avatar"
    save_avatar(path, avatar, {})
    rewrite_header(path, **changes)
    assert said in message(path)


def test_foreign_files(tmp_path, avatar):
    assert "No such file" in message(tmp_path / "missing")
    assert "directory" in message(tmp_path)
    for name, content in (("empty", b""), ("text", b"hello"), ("picture", b"\x89PNG\r\n\x1a\n")):
        (tmp_path / name).write_bytes(content)
        assert "not an avatar" in message(tmp_path / name)
    write(tmp_path / "other", {"x": np.zeros(3)})
    assert "not an avatar" in message(tmp_path / "other")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    assert "not an avatar" in message(tmp_path / "zip")


def test_pickles_are_never_executed(tmp_path, avatar):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    path = tmp_path / "p.avatar"
    save_avatar(path, avatar, {})
    arrays = entries(path) | {"means": np.array([Trap()], object)}
    write(path, arrays)
    assert "damaged" in message(path)
    assert not (tmp_path / "trapped").exists()


def test_cut_and_corrupted(tmp_path, avatar):
    path = tmp_path / "p.avatar"
    save_avatar(path, avatar, {})
    whole = path.read_bytes()
    for fraction in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(fraction * len(whole))])
        assert "incomplete" in message(path)
    random = np.random.default_rng(0)
    refused = 0
    for at in random.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            load_avatar(path)
        except InputError:
            refused += 1
    assert refused > 250  # a few bits are unused: dates, attributes


def test_expanding_archive_is_refused(tmp_path, avatar, monkeypatch):
    path = tmp_path / "p.avatar"
    save_avatar(path, avatar, {})
    monkeypatch.setattr(avatar_file, "MAX_BYTES", 1000)
    assert "claims to hold" in message(path)


def test_full_disk_leaves_the_old_file(tmp_path, avatar, monkeypatch):
    path = tmp_path / "p.avatar"
    save_avatar(path, avatar, {"old": True})

    def full(stream, **arrays):
        stream.write(b"PK\x03\x04half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(InputError, match="No space left"):
        save_avatar(path, avatar, {})
    assert load_avatar(path)[1] == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_place(tmp_path, avatar):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out"):
        save_avatar(tmp_path / "file" / "p.avatar", avatar, {})


def test_archive_is_readable_without_the_library(tmp_path, avatar):
    save_avatar(tmp_path / "p.avatar", avatar, INFO)
    with zipfile.ZipFile(tmp_path / "p.avatar") as archive:
        header = np.load(io.BytesIO(archive.read("header.npy")), allow_pickle=False)
        means = np.load(io.BytesIO(archive.read("means.npy")), allow_pickle=False)
    assert json.loads(bytes(header))["info"] == INFO
    np.testing.assert_array_equal(means, avatar.means)
