"""What a fit changes in the session, persists and keeps safe, and how all is put back."""

import logging
import threading
import uuid
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import ClassVar, Literal

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from mfspark import files
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.phases import Phases
from mfspark.engine.plan import BROADCAST_LIMIT, Keep
from mfspark.errors import DataError, FitError, one_line
from mfspark.persisted import can_persist, persist, unpersist
from mfspark.spark_errors import SPARK_ERRORS, remedy

logger = logging.getLogger("mfspark")

_MOST_BYTES = "spark.sql.execution.arrow.maxBytesPerBatch"

# Of a batch that goes to Python. Any other limit than the highest makes Spark add up the size of
# the batch after each row, which takes three quarters of the time of sending plain rows. Cells of
# many rows come four times as fast by few: otherwise Spark fills one batch with all of them, in a
# buffer that it doubles again and again, and Python waits for the last one.
BATCH_BYTES = {"rows": 2**31 - 1, "cells": 2**22}

FIT_SETTINGS = {
    # Adaptive execution re-plans every stage and merges small partitions; in the loop each
    # partition is one block, so merging idles cores and planning costs more than the stage.
    "spark.sql.adaptive.enabled": "false",
    _MOST_BYTES: str(BATCH_BYTES["rows"]),
    # Spark notices when what it lost and computed again is not what it was: packs of ratings that
    # come in another order each time are not. By default where Spark is 4.2 or later.
    "spark.sql.shuffle.orderIndependentChecksum.enabled": "true",
    "spark.sql.shuffle.orderIndependentChecksum.enableFullRetryOnMismatch": "true",
}

_CHECKPOINT_PREFIX = "mfspark-fit-"
_ABANDONED_SECONDS = 24 * 3600


# What is to be made again with a table.
Origin = Literal["files", "ratings"]


class Workspace:
    """Context of one fit: session settings, persisted tables, files of checkpoints; and how long
    its phases take. ``name``: of the fit, for the log.

    On exit, also by an exception, every persisted table is unpersisted, every checkpoint deleted,
    and every setting has the value it had before; errors of Spark leave as ``FitError``. Fits may
    run side by side in one session (``CrossValidator`` with ``parallelism``): the first one in
    sets, the last one out restores.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _active: ClassVar[dict[int, tuple[int, dict[str, str]]]] = {}

    def __init__(self, spark: SparkSession, name: str | None = None) -> None:
        self.spark = spark
        self.phases = Phases(name)
        self._persisted: list[DataFrame] = []
        self._renewable: list[tuple[DataFrame, StorageLevel, Origin]] = []
        self._last_steps: list[Callable[[], object]] = []
        self._releases: list[Callable[[], object] | None] = []
        self._checkpoints: str | None = None

    def __enter__(self) -> "Workspace":
        with self._lock:
            users, before = self._active.get(id(self.spark), (0, {}))
            if users == 0:
                before = _changed_settings(self.spark)
            self._active[id(self.spark)] = (users + 1, before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clean_up()
        if isinstance(error, SPARK_ERRORS):
            raise FitError(f"Spark gave up the fit: {one_line(error)}; {remedy(error)}") from error

    def _clean_up(self) -> None:
        """Put back, free and delete everything, whatever of it fails."""
        for step in self._last_steps:
            try:
                step()
            except SPARK_ERRORS as problem:
                # What the fit found, or failed of, matters more than what it leaves behind.
                logger.debug("cleaning up after the fit failed: %s", problem)
        for table in self._persisted:
            unpersist(table)
        if self._checkpoints is not None:
            try:
                files.remove(self._checkpoints)
            except (OSError, DataError) as problem:
                # A later fit finds it too old. The session's settings must come back all the same.
                logger.warning("checkpoints in %s were not removed: %s", self._checkpoints, problem)
        with self._lock:
            users, before = self._active.pop(id(self.spark))
            if users > 1:
                self._active[id(self.spark)] = (users - 1, before)
                return
            for name, value in before.items():
                self.spark.conf.set(name, value)

    def send(self, content: Literal["rows", "cells"]) -> None:
        """From now on tables of plain rows, or of cells that hold many, go to Python; ``rows`` at
        first. It makes nothing but speed, so fits that run side by side may disagree."""
        _, before = self._active[id(self.spark)]
        if _MOST_BYTES in before:
            self.spark.conf.set(_MOST_BYTES, str(BATCH_BYTES[content]))

    def persist(
        self,
        table: DataFrame,
        level: StorageLevel = StorageLevel.MEMORY_AND_DISK,
        made_of: Origin | None = None,
    ) -> DataFrame:
        """Persist ``table`` until it is released or the fit ends; in memory, spilling to disk.

        ``made_of``: ``files`` where its tasks make files of their node, or work at such files;
        ``ratings`` where its rows follow from the ratings and the order that they come in.
        """
        kept = persist(table, level)
        self._persisted.append(kept)
        if made_of is not None:
            self._renewable.append((kept, level, made_of))
        return kept

    def partitioned(self, kept: DataFrame, n: int, column: str) -> DataFrame:
        """``kept``, which was persisted with ``n`` partitions of the numbers in ``column``, with
        these partitions: what is written in place of persisted comes back in others."""
        if can_persist(self.spark):
            return kept
        return kept.repartitionById(n, F.col(column))

    def renew(self, made_of: Origin) -> None:
        """Have the tables made of files computed again when they are next asked for, files
        included; or also those made of the ratings. Where they are written in place of persisted,
        they are never lost, and tasks make do without the files of their nodes."""
        if not can_persist(self.spark):
            return
        again = [each for each in self._renewable if each[-1] in ("files", made_of)]
        for table, _, _ in again:
            table.unpersist()
        for table, level, _ in again:
            table.persist(level)

    def on_exit(self, step: Callable[[], object]) -> None:
        """Call ``step`` when the fit ends, while what is persisted is still there."""
        self._last_steps.append(step)

    def release(self, table: DataFrame) -> None:
        """Unpersist a table that no later step reads."""
        unpersist(table)
        self._persisted = [other for other in self._persisted if other is not table]
        self._renewable = [each for each in self._renewable if each[0] is not table]

    def keep(
        self, made: DataFrame | pa.Table, keep: Keep, columns: tuple[str, ...]
    ) -> tuple[KeptCells, pa.Table]:
        """Compute ``made`` once, where it is not on the driver already. Returns some of its
        ``columns`` with a plan of a length that does not grow from step to step, and all columns
        but ``rows`` on the driver.

        driver      collected, so nothing that happens to executors matters
        executors   persisted; what is lost with an executor is computed again, so what it is made
                    of must itself be kept on the driver or be durable
        durable     in files under ``spark.checkpoint.dir``, or else on two executors

        Where the session does not persist, all but the first are in files of its scratch folder.
        """
        if keep == "driver" or isinstance(made, pa.Table):
            table = made if isinstance(made, pa.Table) else made.toArrow()
            self._releases.append(None)
            cells = KeptCells(self.spark, on_driver=table.select(columns))
            return cells, table.drop_columns("rows")
        if not can_persist(self.spark):
            kept = persist(made)
            self._persisted.append(kept)
            self._releases.append(partial(self.release, kept))
        elif keep == "executors":
            kept = self.persist(made, made_of="files")
            self._releases.append(partial(self.release, kept))
        elif folder := setting(self.spark, "spark.checkpoint.dir"):
            kept, path = self._in_files(made, folder)
            self._releases.append(partial(files.remove, path))
        else:
            # Spark lets go of it when nothing refers to it.
            kept = made.localCheckpoint(eager=False, storageLevel=replicated_level(self.spark))
            self._releases.append(None)
        cells = KeptCells(self.spark, in_spark=kept.select(*columns))
        return cells, kept.drop("rows").toArrow()

    @property
    def n_kept(self) -> int:
        """How many tables ``keep`` has made."""
        return len(self._releases)

    def forget(self, first: int, last: int) -> None:
        """Let go of the kept tables of the numbers ``first`` … ``last`` − 1, from 0."""
        for number in range(max(first, 0), last):
            release, self._releases[number] = self._releases[number], None
            if release is not None:
                release()

    def _in_files(self, made: DataFrame, folder: str) -> tuple[DataFrame, str]:
        if self._checkpoints is None:
            files.remove_abandoned(folder, _CHECKPOINT_PREFIX, _ABANDONED_SECONDS)
            self._checkpoints = files.join(folder, f"{_CHECKPOINT_PREFIX}{uuid.uuid4().hex}")
        path = files.join(self._checkpoints, uuid.uuid4().hex)
        # Cells are long, and random to a compressor.
        writer = made.write.options(**{"compression": "none", "parquet.enable.dictionary": "false"})
        writer.parquet(files.for_spark(path))
        return self.spark.read.schema(made.schema).parquet(files.to_read(path)), path


def _changed_settings(spark: SparkSession) -> dict[str, str]:
    """Bring a session to ``FIT_SETTINGS``; the values before of those that it lets be changed."""
    before = {}
    for name, value in FIT_SETTINGS.items():
        try:
            found = str(spark.conf.get(name))
            spark.conf.set(name, value)
            before[name] = found
        except SPARK_ERRORS as error:
            logger.debug("%s stays as it is: %s", name, one_line(error))
    return before


def setting(spark: SparkSession, name: str) -> str:
    """A setting of the session, or its default; empty where it has neither, or is not told."""
    try:
        return spark.conf.get(name) or ""
    except SPARK_ERRORS:
        return ""


def materialised(table: DataFrame, n_bytes: int) -> DataFrame:
    """``table``, computed now, and no longer dependent on what it was made of.

    A table that fits a broadcast is collected and persisted from there, so it survives the loss of
    executors and is freed by ``unpersist``; a bigger one stays on the executors, on two where there
    are several, until nothing refers to it.
    """
    if n_bytes <= BROADCAST_LIMIT:
        return from_driver(table.sparkSession, table.toArrow())
    if not can_persist(table.sparkSession):
        return persist(table)
    return table.localCheckpoint(storageLevel=replicated_level(table.sparkSession))


def from_driver(spark: SparkSession, collected: pa.Table) -> DataFrame:
    """A table of rows that are on the driver, persisted from there."""
    table = spark.createDataFrame(collected)
    return table.persist() if can_persist(spark) else table


def replicated_level(spark: SparkSession) -> StorageLevel:
    """Memory, spilling to disk, of two executors; of one in a session that has just one."""
    master = setting(spark, "spark.master")
    is_one = master == "local" or master.startswith("local[")
    return StorageLevel.MEMORY_AND_DISK if is_one else StorageLevel.MEMORY_AND_DISK_2
