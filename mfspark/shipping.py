"""The package on its way to a Spark Connect server, whose Python need not have it."""

import hashlib
import io
import logging
import tempfile
import zipfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from pyspark.sql import SparkSession

from mfspark.engine.machine import is_connect

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # novermin

logger = logging.getLogger("mfspark")

# One moment for all files: the same package is the same archive.
_MOMENT = (1980, 1, 1, 0, 0, 0)
_has_it: "WeakSet[SparkSession]" = WeakSet()


def ship(spark: SparkSession) -> None:
    """Have the Python workers of a Spark Connect session import this very package.

    It is sent to the server as an artifact of the session, once, so nothing needs to be installed
    there but numba, numpy, pandas, pyarrow, pydantic and scipy. Sessions without Connect are left
    as they are: their workers run the driver's Python, or an environment that is sent with the
    application (see the README).
    """
    if not is_connect(spark) or spark in _has_it:
        return
    content = archive()
    name = f"mfspark-{hashlib.sha256(content).hexdigest()[:16]}.zip"
    with tempfile.TemporaryDirectory(prefix="mfspark-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        spark.addArtifacts(str(path), pyfile=True)
    _has_it.add(spark)
    logger.info("sent mfspark to the Spark Connect server (%d KiB)", len(content) // 1024)


def archive() -> bytes:
    """The package as a zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as target:
        for name, file in _files(resources.files("mfspark"), "mfspark"):
            target.writestr(zipfile.ZipInfo(name, _MOMENT), file.read_bytes())
    return content.getvalue()


def _files(folder: "Traversable", path: str) -> list[tuple[str, "Traversable"]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{path}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            found += _files(entry, name)
        elif entry.is_file() and not entry.name.endswith(".pyc"):
            found.append((name, entry))
    return found
