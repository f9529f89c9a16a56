"""What a fit changes in the session and keeps in memory, and how all of it is put back."""

import threading
from types import TracebackType
from typing import ClassVar

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

# Adaptive execution re-plans every stage and merges small partitions; in the loop each partition is
# one block, so merging idles cores and planning costs more than the stage.
_FIT_SETTINGS = {"spark.sql.adaptive.enabled": "false"}


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
        self._reliable = bool(spark.conf.get("spark.checkpoint.dir", ""))

    def __enter__(self) -> "Workspace":
        with self._lock:
            users, before = self._active.get(id(self.spark), (0, {}))
            if users == 0:
                before = {name: str(self.spark.conf.get(name)) for name in _FIT_SETTINGS}
                for name, value in _FIT_SETTINGS.items():
                    self.spark.conf.set(name, value)
            self._active[id(self.spark)] = (users + 1, before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for table in self._pinned:
            table.unpersist()
        with self._lock:
            users, before = self._active.pop(id(self.spark))
            if users > 1:
                self._active[id(self.spark)] = (users - 1, before)
                return
            for name, value in before.items():
                self.spark.conf.set(name, value)

    def pin(self, table: DataFrame) -> DataFrame:
        """Keep ``table`` in memory, spilling to disk, until it is released or the fit ends."""
        self._pinned.append(table.persist(StorageLevel.MEMORY_AND_DISK))
        return table

    def release(self, table: DataFrame) -> None:
        """Drop a pinned table that no later step reads."""
        table.unpersist()

    def cut(self, table: DataFrame) -> DataFrame:
        """``table`` without its history, materialised by the first action on it.

        Without the cut, the plan of iteration 100 would hold the 99 before it. With
        ``spark.checkpoint.dir`` set, the rows go there and survive the loss of an executor;
        otherwise they stay on the executors, and Spark drops them once nothing refers to them.
        """
        if self._reliable:
            return table.checkpoint(eager=False)
        return table.localCheckpoint(eager=False)

    def parallelism(self) -> int:
        """Tasks that the cluster runs at a time, by the partitions Spark gives to a plain range."""
        partitions = self.spark.range(100_000).select(F.spark_partition_id()).distinct()
        return partitions.count()
