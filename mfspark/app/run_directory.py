"""The directory of a run: where each step finds what the one before left."""

import hashlib
import json
import logging
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pyspark.sql import DataFrame, SparkSession

from mfspark import files
from mfspark.app.config import Config
from mfspark.app.logs import placed
from mfspark.data.read import catalog_files
from mfspark.data.split import PARTS
from mfspark.errors import DataError, OutputExistsError
from mfspark.redact import redacted

RecordT = TypeVar("RecordT", bound=BaseModel)

_PACKAGES = ("mfspark", "pyspark", "numpy", "pandas", "pyarrow", "numba", "scipy")

# Beside the outputs, since folders of tables hold nothing but tables.
_PROVENANCE = "provenance"
_LOCK = ".lock"
# Facts about a step that are in its last line of JSON.
_TOLD = ("rows", "rmse", "iterations")

logger = logging.getLogger("mfspark")


class Provenance(BaseModel):
    """What an output is, what it was made from (identities, by the name of the output), and which
    attempt at a step made it."""

    identity: str = ""
    made_from: dict[str, str] = {}
    attempt: str = ""


class StepRecord(BaseModel):
    """What ``run.json`` says of the last attempt at a step.

    ``depends_on``: a fingerprint of the settings and inputs; ``outputs``: identities of what it has
    written. An attempt that was killed is running for ever.
    """

    model_config = ConfigDict(extra="ignore")

    state: Literal["running", "succeeded", "failed"] = "failed"
    attempt: str | None = None
    depends_on: str | None = None
    outputs: dict[str, str] = {}


class Dependencies(NamedTuple):
    """What a step of the pipeline depends on: parts of the configuration, and earlier outputs."""

    settings: tuple[str, ...]
    inputs: tuple[str, ...]


# In the order of the pipeline.
DEPENDENCIES = {
    "ingest": Dependencies(("data", "split", "synthetic"), ()),
    "train": Dependencies(("train", "trained"), ("ratings", "users", "items")),
    "evaluate": Dependencies(
        ("data", "split", "trained", "evaluate", "ranking", "recommend"),
        ("ratings", "users", "items", "model"),
    ),
    "interpret": Dependencies(("trained", "interpret"), ("ratings", "items", "model")),
    "report": Dependencies(
        ("data", "split", "synthetic", "train", "trained", "evaluate", "ranking", "recommend",
         "interpret"),
        ("ratings", "model", "evaluation", "interpretation", "recommendations", "comparison"),
    ),
}  # fmt: skip


class IngestRecord(BaseModel):
    """``ingest.json``: what became of all rows that were read.

    ``split``: rows of each part; ``bad_rows``: of each reason, in quarantine; ``fingerprint``: of
    the ratings and of the part that each is in; ``first_time`` and ``last_time``: Unix seconds,
    where there are timestamps; ``scale``: what ratings had to lie in, if that was known.
    """

    origin: str
    rows_read: int
    rows_clean: int
    users: int
    items: int
    rows_merged: int
    bad_rows: dict[str, int]
    split: dict[str, int]
    fingerprint: str | None
    first_time: int | None = None
    last_time: int | None = None
    scale: tuple[float, float] | None = None


class RunDirectory:
    """``runs/<name>``: the outputs of the steps, and ``run.json`` about all of them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.path = files.join(config.run.directory, config.run.name)
        # Of the step that is running.
        self._attempt = ""
        self._before = StepRecord()
        self._written: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Path of an output of this run, such as ``model``."""
        return files.join(self.path, name)

    def current(self, name: str) -> str:
        """Where an output is to be read, or a part of one, such as ``ratings/train``."""
        return files.current(self.path, name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other jobs out of the directory, and tidy up after killed ones.

        Only on this machine's file system; the lock ends with the process, however that ends.
        Raises ``DataError`` when another job is at work.
        """
        if not files.is_local(self.path):
            yield
            return
        import fcntl

        folder = Path(files.absolute(self.path))
        existed = [parent for parent in (folder, *folder.parents) if parent.exists()]
        lock = folder / _LOCK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Not emptied before it is ours: it says who the other one is.
            handle = lock.open("a+")
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written ({error.strerror}); set run.directory and run.name "
                "to a folder that you may write"
            ) from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                handle.seek(0)
                raise DataError(
                    f"another job is at work in {self.path} ({handle.read() or 'just started'}); "
                    "wait for its end, or give this one another run.name"
                ) from None
            handle.truncate(0)
            handle.write(f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            handle.flush()
            try:
                files.settle_replacements(self.path)
                yield
            finally:
                lock.unlink(missing_ok=True)
                for parent in (folder, *folder.parents):
                    if parent in existed or any(parent.iterdir()):
                        break
                    parent.rmdir()

    def require(self, name: str, job: str) -> str:
        """Path of an output that an earlier job must have left, of the ratings and the model that
        are there now."""
        if not files.exists(self.of(name)):
            raise DataError(
                f"{self.path}/{name} is missing; run the {job} job with this configuration first"
            )
        for source, made_from in self._provenance(name).made_from.items():
            if files.exists(self.of(source)) and made_from != self.identity(source):
                raise DataError(
                    f"{self.path}/{name} was made from other {source} than {self.path}/{source} "
                    f"holds now, so its figures would be wrong; run the {job} job again with "
                    "run.overwrite = true"
                )
        return self.current(name)

    def identity(self, name: str) -> str:
        """What tells this output from others of the same name."""
        return self._provenance(name).identity

    def _provenance(self, name: str) -> Provenance:
        path = self.of(f"{_PROVENANCE}/{name}.json")
        return self._record_of(path, Provenance) if files.exists(path) else Provenance()

    def _record_of(self, path: str, kind: type[RecordT]) -> RecordT:
        """A JSON file of the run as a record; ``DataError`` when it is damaged."""
        try:
            return kind.model_validate(self.document(path))
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise DataError(
                f"{path} is damaged at {where!r}; restore it from a copy, or delete it and run the "
                "job that wrote it again"
            ) from None

    def document(self, path: str) -> dict[str, object]:
        """The content of a JSON file of the run; ``DataError`` when it is damaged."""
        try:
            content = files.read_json(path)
        except ValueError as error:
            raise DataError(
                f"{path} is damaged ({error}); restore it from a copy, or delete it and run the "
                "job that wrote it again"
            ) from None
        if not isinstance(content, dict):
            raise DataError(f"{path} is damaged: it should hold a JSON object; delete it")
        return content

    def ingested(self) -> IngestRecord:
        """What ``ingest.json`` says; ``DataError`` when it is not about these ratings."""
        self.require("ratings", "ingest")
        if not files.exists(self.of("ingest.json")):
            raise DataError(f"{self.path}/ingest.json is missing; run the ingest job again")
        record = self._record_of(self.of("ingest.json"), IngestRecord)
        if record.fingerprint != self.identity("ratings"):
            raise DataError(
                f"{self.path}/ingest.json is about other ratings than {self.path}/ratings holds: "
                "an ingest was broken off; run the ingest job again with run.overwrite = true"
            )
        return record

    def ratings(self, spark: SparkSession, part: str) -> DataFrame:
        """Ratings of a part of the split, none of them missing."""
        assert part in PARTS
        expected = self.ingested().split[part]
        rows = files.read_parquet(spark, self.current(f"ratings/{part}"))
        found = rows.count()
        if found != expected:
            raise DataError(
                f"{self.path}/ratings/{part} has {found} rows, but {expected} were written: a file "
                "is missing or was added; run the ingest job again with run.overwrite = true"
            )
        return rows

    @contextmanager
    def output(
        self, name: str, made_from: tuple[str, ...] = (), identity: str | None = None
    ) -> Iterator[str]:
        """Path of a directory to fill; it appears whole or not at all.

        ``made_from``: outputs of this run that it depends on. ``identity`` tells it from others of
        the same name.
        """
        may_replace = self._may_replace(name, self._before)
        keep = self.config.run.keep
        with files.staged_directory(self.of(name), may_replace, keep) as stage:
            yield stage
            provenance = Provenance(
                identity=identity or uuid.uuid4().hex,
                made_from={source: self.identity(source) for source in made_from},
                attempt=self._attempt,
            )
        # After the output: who is stopped in between has an output that seems to be outdated.
        files.write_text(
            self.of(f"{_PROVENANCE}/{name}.json"), provenance.model_dump_json(indent=2) + "\n"
        )
        self._written[name] = provenance.identity

    def refuse_existing(self, step: str, *outputs: str) -> None:
        """Raise ``OutputExistsError`` for outputs that are there, unless they may be replaced, or
        are of an attempt at the step that was broken off."""
        before = self._last_attempt(step)
        for name in outputs:
            if files.exists(self.of(name)) and not self._may_replace(name, before):
                raise OutputExistsError(
                    f"{self.path}/{name} exists and would be replaced; pass --set "
                    "run.overwrite=true to allow it, or --set run.name=NAME for another folder"
                )

    def _may_replace(self, output: str, before: StepRecord) -> bool:
        if self.config.run.overwrite:
            return True
        # Without provenance, it was killed when the output was there and that was not.
        is_broken_off = before.state != "succeeded" and before.attempt is not None
        return is_broken_off and self._provenance(output).attempt in (before.attempt, "")

    def _last_attempt(self, step: str) -> StepRecord:
        """What ``run.json`` says of a step."""
        if not files.exists(self.of("run.json")):
            return StepRecord()
        steps = self.document(self.of("run.json")).get("steps")
        entry = steps.get(step) if isinstance(steps, dict) else None
        try:
            return StepRecord.model_validate(entry or {})
        except ValidationError:
            return StepRecord()

    def is_finished(self, step: str) -> bool:
        """Whether a step of the pipeline need not be run again: it has succeeded, its outputs are
        there, and nothing that it depends on has changed since."""
        record = self._last_attempt(step)
        if not self.config.run.resume or record.state != "succeeded":
            return False
        depends_on = self._dependence(step)
        return (
            depends_on is not None
            and record.depends_on == depends_on
            and all(
                files.exists(self.of(name)) and self.identity(name) == identity
                for name, identity in record.outputs.items()
            )
        )

    def state_of(self, step: str) -> str:
        """What is known of a step of the pipeline, in words."""
        record = self._last_attempt(step)
        if record.attempt is None:
            return "not run yet"
        if record.state != "succeeded":
            return "was broken off, or is at work" if record.state == "running" else "has failed"
        if self.is_finished(step):
            return "finished, and nothing has changed since"
        return "finished, but its settings or inputs may have changed since"

    def _dependence(self, step: str) -> str | None:
        """A fingerprint of all that a step of the pipeline depends on; None for other steps, and
        where it cannot be known, as of a table that is not made of files."""
        if step not in DEPENDENCIES:
            return None
        settings, inputs = DEPENDENCIES[step]
        told: list[object] = [version("mfspark")]
        for name in settings:
            # How often a fit is saved makes no difference to it.
            part = getattr(self.config, name).model_dump(mode="json", exclude={"save_every"})
            told.append([name, part])
        told += [[name, self.identity(name)] for name in inputs if files.exists(self.of(name))]
        if step == "ingest":
            data = self.config.data
            paths = (data.path, data.items_path, data.users_path)
            told += [[path, files.listing(path)] for path in paths if path is not None]
            if data.table is not None:
                spark = SparkSession.getActiveSession()
                found = [] if spark is None else catalog_files(spark, data.table, data.table_filter)
                if not found:
                    return None
                told.append([data.table, found])
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @contextmanager
    def step(self, name: str, *outputs: str) -> Iterator[dict[str, object]]:
        """Time a step and record its beginning and its end in ``run.json``; yields a dict for facts
        about it.

        Before any work, ``outputs`` that are there and may not be replaced are an error. A run
        whose first step fails before it has written anything leaves nothing.
        """
        self.refuse_existing(name, *outputs)
        is_first = not files.exists(self.of("run.json"))
        self._before = self._last_attempt(name)
        self._attempt, self._written = uuid.uuid4().hex, {}
        about: dict[str, object] = {
            "attempt": self._attempt,
            "depends_on": self._dependence(name),
        }
        facts: dict[str, Any] = {}
        started = time.time()
        self._record(name, started, {"state": "running", **about})
        try:
            with placed(step=name):
                yield facts
        except BaseException as error:
            if is_first and not self._written:
                files.remove(self.of("run.json"))
            else:
                told = redacted(str(error))[:500] or type(error).__name__
                self._record(name, started, {"state": "failed", "error": told, **about})
            raise
        about["outputs"] = self._written
        self._record(name, started, {"state": "succeeded", **facts, **about})
        seconds = time.time() - started
        known = {name: facts[name] for name in _TOLD if name in facts}
        logger.info(
            "%s: done in %.3g s", name, seconds,
            extra={"step": name, "seconds": round(seconds, 3), **known},
        )  # fmt: skip

    def _record(self, step: str, started: float, facts: dict[str, object]) -> None:
        """Put what is known of a step into ``run.json``."""
        content: dict[str, Any] = {}
        if files.exists(self.of("run.json")):
            content = self.document(self.of("run.json"))
        content.setdefault("steps", {})
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
