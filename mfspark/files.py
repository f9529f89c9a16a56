"""Files beside Spark's own: JSON documents, and directories that appear whole or not at all.

A path is a path of this machine, or a URI (``hdfs://``, ``s3://``, ``gs://``, ``abfs://``) that
both Spark and pyarrow understand. Its characters mean themselves, in Spark as elsewhere: there are
no patterns and no escapes, so ``my ratings [2024] 100%.csv`` is the file of that very name.

Object stores have no directories that could be renamed. What is replaced as a whole lies there in
``versions/`` below its path, and the small file ``_CURRENT`` names the versions that are kept, the
current one first: readers ask ``current`` for it, once per read, and are not disturbed by a
writer.
"""

import json
import os
import re
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs
from pyarrow import parquet as pq

from mfspark.errors import NO_SPACE, DataError, DiskError, OutputExistsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_PARTIAL, _REPLACED = ".partial", ".replaced"
_CURRENT, _VERSIONS = "_CURRENT", "versions"
# The current version, and the one that a reader may still be at.
KEPT_VERSIONS = 2
_MOST_JSON = 2**26
# Small tables that are computed and written at a time: each is some short queries, between which
# the cores would wait for the driver.
_TABLES_AT_A_TIME = 4
_SCHEMES_THAT_RENAME = ("hdfs", "viewfs")


def absolute(path: str) -> str:
    """``path`` in full; one without a scheme means this machine's file system, also on a cluster.

    ``file:`` URIs become plain paths.
    """
    if path.startswith("file:"):
        path = re.sub("^file:(//)?", "", path)
    if "://" in path:
        return path.rstrip("/")
    return str(Path(path).expanduser().absolute())


def is_local(path: str) -> bool:
    """Whether ``path`` lies on this machine's file system."""
    return "://" not in absolute(path)


def _renames(path: str) -> bool:
    """Whether the file system of ``path`` renames directories, at once and whole."""
    return is_local(path) or path.partition("://")[0] in _SCHEMES_THAT_RENAME


def join(folder: str, *names: str) -> str:
    """The path of something inside ``folder``."""
    return "/".join([folder.rstrip("/"), *names])


def for_spark(path: str) -> str:
    """``path`` as Spark's writers want it."""
    full = absolute(path)
    return f"file:{full}" if is_local(full) else full


def to_read(path: str) -> str:
    """``path`` as Spark's readers want it, who would take it for a pattern."""
    full = absolute(path)
    if is_local(full) and ":" in Path(full).name and Path(full).is_file():
        # Hadoop cannot list a file of such a name: it takes what is before the colon for a scheme.
        link = Path(tempfile.mkdtemp(prefix="mfspark-")) / Path(full).name.replace(":", "_")
        link.symlink_to(full)
        full = str(link)
    return re.sub(r"([\\{}\[\]*?])", r"\\\1", for_spark(full))


def read_parquet(spark: "SparkSession", *paths: str) -> "DataFrame":
    """The rows of folders of Parquet files; pages whose checksum is wrong are an error."""
    reader = spark.read.option("parquet.page.verify-checksum.enabled", True)
    return reader.parquet(*map(to_read, paths))


def write_parquet(table: "DataFrame", path: str) -> None:
    """Write ``table`` as a folder of Parquet files and nothing else, over what is there."""
    table.write.parquet(for_spark(path), mode="overwrite")
    # Marks of success and checksums of files, which Polars would take for tables.
    for name in names_in(path):
        if not name.endswith(".parquet"):
            remove(join(path, name))


def write_tables(tables: "Mapping[str, DataFrame]", folder: str) -> None:
    """Write small ``tables`` below ``folder``, each by its name as one file, several at a time."""

    def write(name: str) -> None:
        write_parquet(tables[name].coalesce(1), join(folder, name))

    with ThreadPoolExecutor(_TABLES_AT_A_TIME) as pool:
        # What failed is raised here.
        list(pool.map(write, tables))


def _open(path: str) -> tuple[fs.FileSystem, str]:
    """The file system of ``path``, and its name there; ``DataError`` when there is none."""
    full = absolute(path)
    if is_local(full):
        return fs.LocalFileSystem(), full
    scheme, _, rest = full.partition("://")
    host, _, inner = rest.partition("/")
    try:
        # The rest of the path never goes through a parser of URIs.
        filesystem, root = _filesystem(f"{scheme}://{host}/")
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DataError(
            f"{path} cannot be reached ({reason}); give a path of this machine, or a URI whose "
            "scheme this machine is set up for (hdfs needs a Hadoop installation, s3, gs and abfs "
            "need credentials)"
        ) from None
    return filesystem, f"{root.rstrip('/')}/{inner}".rstrip("/") or "/"


@cache
def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """That of a URI, and its root there. Spark's names for S3 are its own."""
    found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(re.sub(r"^s3[an]:", "s3:", uri))
    return found


def exists(path: str) -> bool:
    """Whether a file or directory of that name is there; versions of which none is current are
    none."""
    kind = _kind(path)
    if kind != fs.FileType.Directory or _renames(path):
        return bool(kind != fs.FileType.NotFound)
    return _versions(path) != [] or not is_folder(join(path, _VERSIONS))


def _versions(path: str) -> list[str]:
    """Names of the versions that are kept of a directory, the current one first."""
    pointer = join(path, _CURRENT)
    return [] if _kind(pointer) != fs.FileType.File else read_text(pointer).split()


def current(folder: str, name: str = "") -> str:
    """Where the directory ``folder`` is to be read, or, with a ``name`` such as ``model/draws``,
    where that is: the first part of the name is a directory of its own."""
    top, _, rest = name.partition("/")
    path = join(folder, top) if top else folder
    if not _renames(path) and (versions := _versions(path)):
        path = join(path, _VERSIONS, versions[0])
    return join(path, rest) if rest else path


def is_folder(path: str) -> bool:
    """Whether there is a directory of that name."""
    return bool(_kind(path) == fs.FileType.Directory)


def _kind(path: str) -> fs.FileType:
    filesystem, inner = _open(path)
    try:
        kind: fs.FileType = filesystem.get_file_info(inner).type
    except NotADirectoryError:
        return fs.FileType.NotFound
    except OSError as error:
        raise _refused(path, "reached", error) from None
    return kind


def _refused(path: str, what: str, error: OSError) -> DataError:
    if error.errno in NO_SPACE:
        return DiskError(f"{path} cannot be {what} ({error.strerror}); make room, and go on")
    reason = error.strerror or str(error).strip().splitlines()[0]
    return DataError(f"{path} cannot be {what} ({reason}); check the path and its permissions")


def names_in(folder: str) -> list[str]:
    """Names of the files and directories directly in ``folder``, sorted; empty without one."""
    return [name for name, _ in _listed(folder)]


def _listed(folder: str) -> list[tuple[str, float | None]]:
    """Names and times of last change."""
    filesystem, inner = _open(folder)
    selector = fs.FileSelector(inner, allow_not_found=True)
    found = filesystem.get_file_info(selector)
    return sorted(
        (Path(info.path).name, info.mtime.timestamp() if info.mtime else None) for info in found
    )


def make_folder(path: str) -> None:
    """Make a directory, with those that it lies in; nothing happens when it is there."""
    filesystem, inner = _open(path)
    try:
        filesystem.create_dir(inner)
    except OSError as error:
        raise _refused(path, "written", error) from None


def open_to_write(path: str) -> Any:
    """A stream into a new file, as a context manager; what is there is written over."""
    filesystem, inner = _open(path)
    return filesystem.open_output_stream(inner, compression=None)


def open_to_read(path: str) -> Any:
    """A file as a stream of its bytes as they are, as a context manager."""
    filesystem, inner = _open(path)
    return filesystem.open_input_file(inner)


def listing(path: str) -> list[tuple[str, int, float]]:
    """Name, bytes and time of last change of a file, or of all files below a directory, sorted:
    what tells whether they were changed. Empty when nothing is there."""
    filesystem, inner = _open(path)
    if _kind(path) != fs.FileType.Directory:
        found = [filesystem.get_file_info(inner)]
    else:
        try:
            found = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
        except OSError as error:
            raise _refused(path, "read", error) from None
    return sorted(
        (info.path.removeprefix(inner), info.size, info.mtime.timestamp() if info.mtime else 0.0)
        for info in found
        if info.type == fs.FileType.File
    )


def read_json(path: str) -> Any:
    """The content of a small JSON file; ``ValueError`` when it is damaged, deeper than Python reads
    or longer than any that is written here; ``FileNotFoundError`` when it is missing."""
    content = read_bytes(path, _MOST_JSON + 1)
    if len(content) > _MOST_JSON:
        raise ValueError(f"it is longer than {_MOST_JSON >> 20} MiB")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply") from None


def stray_entry(folder: str) -> str | None:
    """Something below a directory of this machine that would lead a reader astray: a link that
    leads out of it, or what is neither file nor directory. None when there is nothing of it."""
    if not is_local(folder):
        return None
    top = os.path.realpath(absolute(folder))
    # Links to directories are listed and not followed.
    for where, folders, names in os.walk(top):
        for name in (*folders, *names):
            path = os.path.join(where, name)
            is_inside = os.path.realpath(path).startswith(top + os.sep)
            is_plain = os.path.exists(path) and _is_file_or_folder(os.stat(path).st_mode)
            if not (is_inside and is_plain):
                return os.path.relpath(path, top)
    return None


def _is_file_or_folder(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def read_text(path: str) -> str:
    """The UTF-8 text of a file; ``FileNotFoundError`` when it is missing."""
    return read_bytes(path).decode("utf-8")


def read_bytes(path: str, most: int | None = None) -> bytes:
    """The content of a file, or its first ``most`` bytes, as they are (not decompressed)."""
    filesystem, inner = _open(path)
    with filesystem.open_input_stream(inner, compression=None) as stream:
        return bytes(stream.read(most))


def read_beginning(path: str, most: int) -> bytes:
    """The first ``most`` bytes of a file, decompressed by its name; ``OSError`` where it is
    damaged."""
    filesystem, inner = _open(path)
    with filesystem.open_input_stream(inner, compression="detect") as stream:
        return bytes(stream.read(most))


def read_pandas(path: str) -> Any:
    """A folder of Parquet files as a pandas DataFrame."""
    filesystem, inner = _open(path)
    return pq.read_table(inner, filesystem=filesystem).to_pandas()


def write_text(path: str, text: str) -> None:
    """Write a UTF-8 file; it appears whole, replacing the one before."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str, content: bytes) -> None:
    """Write a file; it appears whole, replacing the one before."""
    filesystem, inner = _open(path)
    parent = inner.rpartition("/")[0]
    staged = f"{parent}/.{uuid.uuid4().hex}"
    try:
        if not _renames(path):
            # An object appears when it is whole.
            with filesystem.open_output_stream(inner, compression=None) as stream:
                stream.write(content)
            return
        filesystem.create_dir(parent)
        with filesystem.open_output_stream(staged, compression=None) as stream:
            stream.write(content)
        filesystem.move(staged, inner)
    except OSError as error:
        raise _refused(path, "written", error) from None


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it; nothing happens when it is missing."""
    filesystem, inner = _open(path)
    kind = filesystem.get_file_info(inner).type
    if kind == fs.FileType.Directory:
        filesystem.delete_dir(inner)
    elif kind == fs.FileType.File:
        filesystem.delete_file(inner)


def remove_abandoned(folder: str, prefix: str, seconds: float) -> None:
    """Remove what in ``folder`` begins with ``prefix`` and was last changed so long ago."""
    for name, changed in _listed(folder):
        if name.startswith(prefix) and changed is not None and time.time() - changed > seconds:
            remove(join(folder, name))


@contextmanager
def staged_directory(path: str, overwrite: bool, keep: int = KEPT_VERSIONS) -> Iterator[str]:
    """Yield the path of a directory to fill; it becomes ``path`` when the block ends well.

    After an exception nothing new is left and what was at ``path`` is untouched: it is renamed
    aside before it is replaced, and removed last. Where directories are not renamed, it becomes
    the current version of ``path`` (see ``current``), and of the older ones ``keep`` - 1 stay.
    Raises ``OutputExistsError`` when ``path`` exists and ``overwrite`` is false, ``DataError`` when
    it cannot be written.
    """
    if exists(path) and not overwrite:
        raise OutputExistsError(
            f"{path} exists and would be replaced; choose another name or allow overwriting"
        )
    if not _renames(path):
        with _new_version(path, keep) as stage:
            yield stage
        return
    folder, _, name = absolute(path).rpartition("/")
    mark = uuid.uuid4().hex[:8]
    stage, aside = (f"{folder}/.{name}-{mark}{end}" for end in (_PARTIAL, _REPLACED))
    filesystem, inner_stage = _open(stage)
    try:
        filesystem.create_dir(inner_stage)
    except OSError as error:
        raise _refused(path, "written", error) from None
    try:
        yield stage
    except BaseException:
        remove(stage)
        raise
    inner, inner_aside = _open(path)[1], _open(aside)[1]
    was_there = exists(path)
    if was_there:
        filesystem.move(inner, inner_aside)
    try:
        filesystem.move(inner_stage, inner)
    except BaseException:
        if was_there:
            filesystem.move(inner_aside, inner)
        remove(stage)
        raise
    if was_there:
        remove(aside)


@contextmanager
def _new_version(path: str, keep: int) -> Iterator[str]:
    """``staged_directory`` where directories are not renamed. One writer at a time: versions that
    no pointer names are what killed writers left."""
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
    stage = join(path, _VERSIONS, name)
    make_folder(stage)
    try:
        yield stage
    except BaseException:
        remove(stage)
        raise
    kept = [name, *_versions(path)][:keep]
    write_text(join(path, _CURRENT), "\n".join(kept) + "\n")
    for other in names_in(join(path, _VERSIONS)):
        if other not in kept:
            # The new one counts already; the next writer will remove what is left.
            with suppress(OSError, DataError):
                remove(join(path, _VERSIONS, other))


def settle_replacements(folder: str) -> None:
    """Tidy up after writers of ``folder`` that were killed: what was set aside comes back where its
    successor never arrived, unfinished directories go. Nobody may be writing there."""
    filesystem, inner = _open(folder)
    for hidden in names_in(folder):
        found = re.fullmatch(rf"\.(.+)-[0-9a-f]{{8}}({_PARTIAL}|{_REPLACED})", hidden)
        if not found:
            continue
        if found[2] == _REPLACED and not exists(join(folder, found[1])):
            filesystem.move(f"{inner}/{hidden}", f"{inner}/{found[1]}")
        else:
            remove(join(folder, hidden))
