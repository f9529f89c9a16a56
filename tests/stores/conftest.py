"""A server that speaks S3."""

import os
import uuid
from collections.abc import Iterator

import pytest
from object_store import ObjectStore
from pyarrow import fs

from mfspark import files


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A bucket of its own, in this process's environment."""
    found = ObjectStore(server, f"bucket-{uuid.uuid4().hex[:8]}")
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    assert "AWS_SESSION_TOKEN" not in os.environ
    fs.S3FileSystem(endpoint_override=server, allow_bucket_creation=True).create_dir(found.bucket)
    yield found
    files._filesystem.cache_clear()
