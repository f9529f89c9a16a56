"""What a fit changes in the session and keeps in memory, and how all of it is put back."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar

from pyspark.sql import DataFrame, SparkSession
from pyspark.storagelevel import StorageLevel

from mfspark.spark_errors import SPARK_ERRORS

logger = logging.getLogger("mfspark")

FIT_SETTINGS = {
    # Adaptive execution re-plans every stage and merges small partitions; in the loop each
    # partition is one block, so merging idles cores and planning costs more than the stage.
    "spark.sql.adaptive.enabled": "false",
    # Any other limit makes Spark add up the size of the batch after each row that goes to Python,
    # which takes three quarters of the time of sending plain rows.
    "spark.sql.execution.arrow.maxBytesPerBatch": str(2**31 - 1),
}


class Workspace:
    """Context of one fit: session settings, pinned DataFrames, cut lineages.

    On exit, also by an exception, every pinned DataFrame is released and every setting has the
    value it had before. Fits may run side by side in one session (``CrossValidator`` with
    ``parallelism``): the first one in sets, the last one out restores.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _active: ClassVar[dict[int, tuple[int, dict[str, str]]]] = {}

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        self._pinned: list[DataFrame] = []
        self._last_steps: list[Callable[[], object]] = []
        self._reliable = bool(spark.conf.get("spark.checkpoint.dir", ""))

    def __enter__(self) -> "Workspace":
        with self._lock:
            users, before = self._active.get(id(self.spark), (0, {}))
            if users == 0:
                before = {name: str(self.spark.conf.get(name)) for name in FIT_SETTINGS}
                for name, value in FIT_SETTINGS.items():
                    self.spark.conf.set(name, value)
            self._active[id(self.spark)] = (users + 1, before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for step in self._last_steps:
            try:
                step()
            except SPARK_ERRORS as problem:
                # What the fit found, or failed of, matters more than what it leaves behind.
                logger.debug("cleaning up after the fit failed: %s", problem)
        for table in self._pinned:
            table.unpersist()
        with self._lock:
            users, before = self._active.pop(id(self.spark))
            if users > 1:
                self._active[id(self.spark)] = (users - 1, before)
                return
            for name, value in before.items():
                self.spark.conf.set(name, value)

    def pin(
        self, table: DataFrame, level: StorageLevel = StorageLevel.MEMORY_AND_DISK
    ) -> DataFrame:
        """Keep ``table`` until it is released or the fit ends; in memory, spilling to disk."""
        self._pinned.append(table.persist(level))
        return table

    def on_exit(self, step: Callable[[], object]) -> None:
        """Call ``step`` when the fit ends, while what is pinned is still there."""
        self._last_steps.append(step)

    def release(self, table: DataFrame) -> None:
        """Drop a pinned table that no later step reads."""
        table.unpersist()

    def cut(self, table: DataFrame) -> DataFrame:
        """``table`` without its history, computed once, at the latest by the first action on it.

        Without the cut, the plan of iteration 100 would hold the 99 before it. With
        ``spark.checkpoint.dir`` set, the rows go there and survive the loss of an executor;
        otherwise they stay on the executors, and Spark drops them once nothing refers to them.
        """
        if self._reliable:
            # Eager: what is computed for an action is not what a lazy checkpoint writes, so the
            # rows would be computed twice.
            return table.checkpoint(eager=True)
        return table.localCheckpoint(eager=False)
