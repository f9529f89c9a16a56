"""Files beside Spark's own: JSON documents, and directories that appear whole or not at all.

A path may be a plain path of this machine or a URI (``hdfs://``, ``s3://``, ``gs://``, ``abfs://``)
that both Spark and pyarrow understand.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from mfspark.errors import OutputExistsError


def as_uri(path: str) -> str:
    """``path`` with a scheme; plain paths mean this machine's file system, also on a cluster."""
    return path if "://" in path else Path(path).expanduser().absolute().as_uri()


def _open(path: str) -> tuple[fs.FileSystem, str]:
    filesystem, inner = fs.FileSystem.from_uri(as_uri(path))
    return filesystem, inner


def exists(path: str) -> bool:
    """Whether a file or directory of that name is there."""
    filesystem, inner = _open(path)
    return bool(filesystem.get_file_info(inner).type != fs.FileType.NotFound)


def read_text(path: str) -> str:
    """The UTF-8 text of a file; ``FileNotFoundError`` when it is missing."""
    filesystem, inner = _open(path)
    with filesystem.open_input_stream(inner) as stream:
        return bytes(stream.read()).decode("utf-8")


def write_text(path: str, text: str) -> None:
    """Write a UTF-8 file; it appears whole, replacing the one before."""
    filesystem, inner = _open(path)
    parent = inner.rpartition("/")[0]
    filesystem.create_dir(parent)
    staged = f"{parent}/.{uuid.uuid4().hex}"
    with filesystem.open_output_stream(staged) as stream:
        stream.write(text.encode("utf-8"))
    filesystem.move(staged, inner)


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it; nothing happens when it is missing."""
    filesystem, inner = _open(path)
    kind = filesystem.get_file_info(inner).type
    if kind == fs.FileType.Directory:
        filesystem.delete_dir(inner)
    elif kind == fs.FileType.File:
        filesystem.delete_file(inner)


@contextmanager
def staged_directory(path: str, overwrite: bool) -> Iterator[str]:
    """Yield the URI of a directory to fill; it becomes ``path`` when the block ends well.

    After an exception nothing new is left and what was at ``path`` is untouched. Raises
    ``OutputExistsError`` when ``path`` exists and ``overwrite`` is false.
    """
    if exists(path) and not overwrite:
        raise OutputExistsError(
            f"{path} exists and would be replaced; choose another name or allow overwriting"
        )
    uri = as_uri(path).rstrip("/")
    parent, _, name = uri.rpartition("/")
    stage = f"{parent}/.{name}-{uuid.uuid4().hex[:8]}.partial"
    filesystem, inner_stage = _open(stage)
    filesystem.create_dir(inner_stage)
    try:
        yield stage
    except BaseException:
        remove(stage)
        raise
    remove(path)
    filesystem.move(inner_stage, _open(path)[1])
