"""Tables that are computed once and read several times.

Serverless Spark refuses to persist tables, to checkpoint them, and to change most settings. There
tables are written to a scratch folder, which ``MFSPARK_SCRATCH`` names; all else is the same.
"""

import atexit
import os
import uuid
from weakref import WeakKeyDictionary

from pyspark.sql import DataFrame, SparkSession
from pyspark.storagelevel import StorageLevel

from mfspark import files
from mfspark.errors import ConfigError
from mfspark.spark_errors import SPARK_ERRORS

SCRATCH = "MFSPARK_SCRATCH"
_PREFIX = "mfspark-scratch-"
_ABANDONED_SECONDS = 24 * 3600

_persists: WeakKeyDictionary[SparkSession, bool] = WeakKeyDictionary()
_written: WeakKeyDictionary[DataFrame, str] = WeakKeyDictionary()
_folders: dict[str, str] = {}


def can_persist(spark: SparkSession) -> bool:
    """Whether a session persists tables; it is asked once."""
    if spark not in _persists:
        try:
            spark.range(1).persist().unpersist()
            _persists[spark] = True
        except SPARK_ERRORS:
            _persists[spark] = False
    return _persists[spark]


def persist(table: DataFrame, level: StorageLevel = StorageLevel.MEMORY_AND_DISK) -> DataFrame:
    """``table``, which is computed once: persisted when it is first asked for, or written now where
    the session does not persist. ``ConfigError`` where there is no place to write it."""
    if can_persist(table.sparkSession):
        return table.persist(level)
    return written(table)


def written(table: DataFrame) -> DataFrame:
    """``table``, read from files in the scratch folder."""
    path = files.join(_scratch(), uuid.uuid4().hex)
    table.write.parquet(files.for_spark(path))
    kept = table.sparkSession.read.schema(table.schema).parquet(files.to_read(path))
    _written[kept] = path
    return kept


def unpersist(table: DataFrame) -> None:
    """Let go of what ``persist`` returned, or of another table, with which nothing happens."""
    path = _written.pop(table, None)
    if path is not None:
        files.remove(path)
    elif can_persist(table.sparkSession):
        table.unpersist()


def _scratch() -> str:
    """A folder of this process's own, which is removed at its end."""
    place = os.environ.get(SCRATCH)
    if not place:
        raise ConfigError(
            "this session refuses to persist tables, as serverless Spark does, and there is no "
            f"place to write them instead; set the environment variable {SCRATCH} to a folder "
            "(path or URI) that Spark and this process can write"
        )
    if place not in _folders:
        files.remove_abandoned(place, _PREFIX, _ABANDONED_SECONDS)
        _folders[place] = files.join(place, f"{_PREFIX}{uuid.uuid4().hex}")
        atexit.register(files.remove, _folders[place])
    return _folders[place]
