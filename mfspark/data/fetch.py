"""Public rating datasets by name: download, verify, unpack, keep."""

import hashlib
import logging
import os
import shutil
import subprocess  # nosec B404
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path
from tqdm import tqdm

from mfspark.errors import DataError

logger = logging.getLogger("mfspark")

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Dataset:
    """A zip file on the GroupLens server: its SHA-256 and the one folder inside."""

    sha256: str
    folder: str


# The checksums are those that tensorflow-datasets and lenskit-codex pin for the same files.
DATASETS = {
    "ml-100k": Dataset(
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229", "ml-100k"
    ),
    "ml-1m": Dataset("a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", "ml-1m"),
    "ml-latest-small": Dataset(
        "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436", "ml-latest-small"
    ),
    "ml-10m": Dataset(
        "813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862", "ml-10M100K"
    ),
    "ml-20m": Dataset("96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3", "ml-20m"),
    "ml-25m": Dataset("8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa", "ml-25m"),
    "ml-32m": Dataset("e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee", "ml-32m"),
}

# MovieLens 100K lies also in this wheel, which every package index has.
_WHEEL = "recbole==1.2.1"
_WHEEL_MD5 = "56110b0736dce220b371137935ad36de"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k"


def fetch(name: str, cache: Path | None = None, base_url: str = GROUPLENS) -> Path:
    """The folder of the dataset, downloaded on first use.

    ``cache`` defaults to ``mfspark`` in the user's cache directory (``MFSPARK_CACHE`` overrides
    it). Raises ``DataError`` for an unknown name, a failed download or a wrong checksum.
    """
    target = place_of(name, cache)
    if target.exists():
        return target
    root = target.parent
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        unpacked = _obtain(name, base_url, Path(scratch))
        unpacked.rename(target)
    return target


def place_of(name: str, cache: Path | None = None) -> Path:
    """Where ``fetch`` keeps the dataset; ``DataError`` for an unknown name."""
    if name not in DATASETS:
        raise DataError(
            f"there is no dataset {name!r}; known are {', '.join(DATASETS)} and synthetic"
        )
    root = cache or Path(os.environ.get("MFSPARK_CACHE") or user_cache_path("mfspark"))
    return root / name


def _obtain(name: str, base_url: str, scratch: Path) -> Path:
    """The unpacked folder of a data set below ``scratch``: from its home page, or where that fails
    and there is one, from the packaged copy."""
    dataset = DATASETS[name]
    url = f"{base_url}/{name}.zip"
    archive = scratch / f"{name}.zip"
    try:
        _download(url, archive)
    except (urllib.error.URLError, OSError) as error:
        if name == "ml-100k":
            logger.info("%s cannot be reached (%s); taking the copy in %s", url, error, _WHEEL)
            return _from_wheel(scratch)
        raise DataError(
            f"{url} cannot be downloaded ({error}); check the network, or unpack the file by hand "
            "and set data.path"
        ) from None
    _verify(archive, "sha256", dataset.sha256)
    unpack(archive, scratch / "unpacked")
    return scratch / "unpacked" / dataset.folder


def _download(url: str, target: Path) -> None:
    # Addresses are those of DATASETS.
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:  # nosec B310
        size = int(response.headers.get("Content-Length") or 0)
        with (
            target.open("wb") as file,
            tqdm.wrapattr(
                file, "write", total=size or None, desc=url.rpartition("/")[2], unit_divisor=1024
            ) as sink,
        ):
            shutil.copyfileobj(response, sink)
    if size and target.stat().st_size != size:
        raise OSError(f"the connection ended after {target.stat().st_size} of {size} bytes")


def _verify(file: Path, algorithm: str, expected: str) -> None:
    with file.open("rb") as content:
        digest = hashlib.new(algorithm)
        for chunk in iter(lambda: content.read(2**20), b""):
            digest.update(chunk)
    found = digest.hexdigest()
    if found != expected:
        raise DataError(
            f"{file.name} has the {algorithm} checksum {found}, expected was {expected}: the "
            "download is damaged or the file was changed at its source; try again, or get the file "
            "by hand and set data.path"
        )


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip file, refusing members that would land outside ``target``."""
    root = target.resolve()
    with zipfile.ZipFile(archive) as content:
        for member in content.namelist():
            if not (root / member).resolve().is_relative_to(root):
                raise DataError(
                    f"{archive.name} holds {member!r}, which points outside of its folder; "
                    "the file is not what it should be"
                )
        content.extractall(root)


def _from_wheel(scratch: Path) -> Path:
    """The unpacked folder of MovieLens 100K, from the wheel that has it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", _WHEEL]
    # No shell, and nothing in it that a user gave.
    result = subprocess.run(  # nosec B603
        [*command, "--dest", str(scratch)], capture_output=True, text=True, check=False
    )
    wheels = list(scratch.glob("recbole-*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"neither {GROUPLENS} nor a package index with {_WHEEL} can be reached ({reason}); "
            "check the network, or set data.path"
        )
    _verify(wheels[0], "md5", _WHEEL_MD5)
    unpack(wheels[0], scratch / "wheel")
    return scratch / "wheel" / _WHEEL_FOLDER
