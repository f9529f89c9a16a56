"""The directory of a run: where each step finds what the one before left."""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from mfspark import files
from mfspark.config import Config
from mfspark.errors import DataError

_PACKAGES = ("mfspark", "pyspark", "numpy", "pandas", "pyarrow", "numba", "scipy")


class RunDirectory:
    """``runs/<name>``: the outputs of the steps, and ``run.json`` about all of them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.path = f"{config.run.directory.rstrip('/')}/{config.run.name}"

    def of(self, name: str) -> str:
        """Path of an output of this run, such as ``model`` or ``ratings/train``."""
        return files.join(self.path, name)

    def require(self, name: str, job: str) -> str:
        """Path of an output that an earlier job must have left."""
        if not files.exists(self.of(name)):
            raise DataError(
                f"{self.path}/{name} is missing; run the {job} job with this configuration first"
            )
        return self.of(name)

    @contextmanager
    def output(self, name: str) -> Iterator[str]:
        """Path of a directory to fill; it appears whole or not at all."""
        with files.staged_directory(self.of(name), self.config.run.overwrite) as stage:
            yield stage

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a step and record its end in ``run.json``; yields a dict for facts about it.

        A failure is recorded where an earlier step has left something; a run whose first step
        fails leaves nothing.
        """
        existed = files.exists(self.path)
        facts: dict[str, Any] = {}
        started = time.time()
        try:
            yield facts
        except BaseException as error:
            if files.exists(self.of("run.json")):
                self._record(name, started, {"state": "failed", "error": str(error)[:500]})
            elif not existed:
                files.remove(self.path)
            raise
        self._record(name, started, {"state": "succeeded", **facts})

    def _record(self, step: str, started: float, facts: dict[str, Any]) -> None:
        content: dict[str, Any] = {"steps": {}}
        if files.exists(self.of("run.json")):
            content = json.loads(files.read_text(self.of("run.json")))
        entry = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 3),
            **facts,
        }
        # In the order of the last time each step ran.
        content["steps"].pop(step, None)
        content["steps"][step] = entry
        content["name"] = self.config.run.name
        content["config"] = self.config.model_dump(mode="json")
        content["versions"] = {package: version(package) for package in _PACKAGES}
        content["versions"]["python"] = platform.python_version()
        files.write_text(self.of("run.json"), json.dumps(content, indent=2) + "\n")
