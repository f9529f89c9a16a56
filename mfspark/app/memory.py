"""Peak memory of a piece of work, as seen from the driver's machine."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

try:
    import psutil
except ImportError:
    psutil = None

IS_MEASURED = psutil is not None
_SAMPLES_PER_SECOND = 20


@dataclass
class Memory:
    """Peak resident memory in MiB of the JVM and of all Python workers together; 0: not known.

    A JVM keeps what it once took, so its figure is that of the hungriest work so far.
    """

    jvm_mib: float = 0.0
    workers_mib: float = 0.0


@contextmanager
def watch_memory() -> Iterator[Memory]:
    """Measure the work inside; without psutil, or without a JVM here (Spark Connect), nothing is
    known. Executors on other machines are not seen."""
    memory, done = Memory(), threading.Event()
    jvm = _jvm() if IS_MEASURED else None
    if jvm is None:
        yield memory
        return

    def watch() -> None:
        while not done.wait(1 / _SAMPLES_PER_SECOND):
            workers = [p for p in jvm.children(recursive=True) if p.pid != os.getpid()]
            memory.jvm_mib = max(memory.jvm_mib, _resident_mib([jvm]))
            memory.workers_mib = max(memory.workers_mib, _resident_mib(workers))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()


def machine_bytes() -> int:
    """Memory of this machine; needs psutil."""
    return int(psutil.virtual_memory().total)


def _jvm() -> Any:
    """The driver's JVM: under spark-submit it started this process, otherwise it is a child."""
    own = psutil.Process()
    family = [*own.parents(), *own.children(recursive=True)]
    return next((process for process in family if process.name() == "java"), None)


def _resident_mib(processes: list[Any]) -> float:
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 2**20
