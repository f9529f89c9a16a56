"""Downloads from a local server: whole, verified, unpacked inside their folder, kept."""

import functools
import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import pytest

from mfspark.data import fetch as fetching
from mfspark.data.fetch import DATASETS, Dataset, fetch, unpack
from mfspark.errors import DataError


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def dataset(server, monkeypatch):
    """A dataset ml-1m on the server; returns its archive and the address."""
    folder, url = server
    archive = folder / "ml-1m.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("ml-1m/ratings.dat", "1::2::3::4\n")
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(DATASETS, "ml-1m", Dataset(checksum, "ml-1m"))
    return archive, url


def test_fetch_downloads_once(dataset, tmp_path):
    archive, url = dataset
    path = fetch("ml-1m", tmp_path / "cache", url)
    assert (path / "ratings.dat").read_text() == "1::2::3::4\n"
    archive.unlink()
    assert fetch("ml-1m", tmp_path / "cache", url) == path
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["ml-1m"]


def test_wrong_checksum_leaves_nothing(dataset, tmp_path):
    archive, url = dataset
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"ml-1m.zip has the sha256 checksum .* damaged"):
        fetch("ml-1m", tmp_path / "cache", url)
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_file_says_what_to_do(server, tmp_path):
    with pytest.raises(DataError, match=r"ml-20m.zip cannot be downloaded .*set data.path"):
        fetch("ml-20m", tmp_path, server[1])
    with pytest.raises(DataError, match=r"no dataset 'ml-2m'; known are ml-100k"):
        fetch("ml-2m", tmp_path)


def test_unpack_refuses_paths_outside(tmp_path):
    archive = tmp_path / "evil.zip"
    for member in ("../outside.txt", "/absolute.txt", "a/../../outside.txt"):
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr(member, "x")
        with pytest.raises(DataError, match="points outside"):
            unpack(archive, tmp_path / "target")
    assert not (tmp_path / "outside.txt").exists()


def test_100k_falls_back_to_the_wheel(server, tmp_path, monkeypatch):
    def download(command, **_):
        target = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{target}/recbole-1.2.1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", "header\n")
        checksum = hashlib.md5(Path(f"{target}/recbole-1.2.1-py3-none-any.whl").read_bytes())
        monkeypatch.setattr(fetching, "_WHEEL_MD5", checksum.hexdigest())
        return type("Result", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(fetching.subprocess, "run", download)
    path = fetch("ml-100k", tmp_path / "cache", server[1])
    assert (path / "ml-100k.inter").exists()


def test_without_any_network_100k_says_so(server, tmp_path, monkeypatch):
    failed = type("Result", (), {"returncode": 1, "stderr": "no index\n"})()
    monkeypatch.setattr(fetching.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(DataError, match=r"nor a package index .*\(no index\)"):
        fetch("ml-100k", tmp_path / "cache", server[1])
