"""How kernels are compiled, and where a node keeps the machine code.

numba's own cache goes by the path of a source file, and a packed environment is unpacked to a new
path for each executor: every application would compile everything again. The cache of the kernels
goes by the content of their sources, so whatever ran on a node before has compiled for all.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache
from platformdirs import user_cache_path


def compiled(**fastmath: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: compile on first call, without the interpreter's lock, into the node's cache."""
    compile_lazily = numba.njit(nogil=True, **fastmath)

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = compile_lazily(function)
        # Without a place for it, code lives as long as the process.
        dispatcher._cache = NullCache() if code_folder() is None else _KernelCache(function)  # type: ignore[no-untyped-call]
        return dispatcher

    return decorate


@cache
def code_folder() -> Path | None:
    """The folder of this version's machine code; None when no place can be written.

    The first that can be written of ``NUMBA_CACHE_DIR``, the user's cache directory, a folder of
    this user's among the temporary files, and the scratch directory that Spark gives its workers.
    """
    named = os.environ.get("NUMBA_CACHE_DIR")
    folders = [(Path(named) / "mfspark", True)] if named else []
    folders += [
        (user_cache_path("mfspark") / "kernels", False),
        (Path(tempfile.gettempdir()) / f"mfspark-{_user()}" / "kernels", False),
    ]
    scratch = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    if scratch:
        folders.append((Path(scratch) / "mfspark-kernels", False))
    for folder, is_trusted in folders:
        if _is_usable(folder, is_trusted):
            return folder / _version()
    return None


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _is_usable(folder: Path, is_trusted: bool) -> bool:
    """Whether files can be made there; what is not chosen by the user must also be theirs alone,
    since loading machine code of others means running it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        found = folder.stat()
    except OSError:
        return False
    is_open = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return is_trusted or (found.st_uid == _user() and not is_open)


@cache
def _version() -> str:
    """Hash of numba's version and all sources of kernels: code depends on what it calls, too."""
    digest = hashlib.sha256(numba.__version__.encode())
    sources = {entry.name: entry for entry in resources.files("mfspark.kernels").iterdir()}
    for name in sorted(name for name in sources if name.endswith(".py")):
        digest.update(name.encode() + sources[name].read_bytes())
    return digest.hexdigest()[:16]


class _Locator:
    """What numba asks of a place for the code of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._line = function.__code__.co_firstlineno
        # Under this name numba asks for the file when it warns of code that cannot be kept.
        self._py_file = function.__code__.co_filename

    @classmethod
    def from_function(cls, function: Callable[..., Any], _: str) -> "_Locator":
        return cls(function)

    def get_cache_path(self) -> str:
        return str(code_folder())

    def ensure_cache_path(self) -> None:
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)

    def get_source_stamp(self) -> str:
        return _version()

    def get_disambiguator(self) -> str:
        return str(self._line)


class _KernelCacheImpl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes: list[type[object]] = [_Locator]  # noqa: RUF012


class _KernelCache(FunctionCache):  # type: ignore[misc]
    _impl_class = _KernelCacheImpl


# Reassociation lets sums run in vector registers; NaN and infinity keep their meaning.
jit = compiled(fastmath={"reassoc", "contract", "nsz", "arcp"})
