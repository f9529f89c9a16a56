"""Jobs done again when they failed of something that Spark cannot put right by itself."""

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyspark.sql import SparkSession

from mfspark.engine.cells import ChangedRatingsError, LostCellError
from mfspark.engine.workspace import Workspace
from mfspark.errors import FitError
from mfspark.spark_errors import SPARK_ERRORS, described, remedy

logger = logging.getLogger("mfspark")

ResultT = TypeVar("ResultT")

# A fit that loses files more often than this has a disk that must be seen to.
_MOST_RECOVERIES = 3
_LOST_SCRATCH = re.compile("FileNotFoundException|NoSuchFileException")
# Of what it lost Spark has computed a part again, and it is not what it was.
_CHANGED = re.compile(f"indeterminate output|{ChangedRatingsError.__name__}")
# Folders that Spark's disk store expects below its own and does not make a second time.
_STORE_FOLDERS = 64


def recovering(workspace: Workspace, n_blocks: int, job: Callable[[], ResultT]) -> ResultT:
    """What ``job`` returns; done again when an executor's scratch folder is gone, when cells were
    lost, or when what was computed again after a loss is not what it was before.

    Raises ``FitError`` where the ratings are others time and again.
    """
    for _ in range(_MOST_RECOVERIES):
        try:
            return job()
        except (*SPARK_ERRORS, ChangedRatingsError) as error:
            text = described(error)
            if _CHANGED.search(text):
                logger.warning(
                    "ratings that were computed again are in another order, or are others; making "
                    "all blocks again"
                )
                workspace.renew("ratings")
            elif LostCellError.__name__ in text:
                logger.warning(
                    "factors and the files that they are made of were lost; making both again"
                )
                workspace.renew("files")
            elif _LOST_SCRATCH.search(text):
                logger.warning("an executor has lost its scratch folder; making it again")
                # More tasks than cores, so that no executor is left out.
                restore_scratch(workspace.spark, 4 * n_blocks)
            else:
                raise
    try:
        return job()
    except ChangedRatingsError as error:
        raise FitError(f"{error}; {remedy(error)}") from error


def executor_folders() -> list[Path]:
    """Folders of this executor's temporary files, made again if they were removed; behind them
    the machine's own."""
    named = os.environ.get("SPARK_LOCAL_DIRS", "")
    folders = [Path(folder) for folder in named.split(",") if folder]
    for folder in folders:
        if not folder.exists():
            # Without these Spark's own writes on this executor would fail from now on.
            for number in range(_STORE_FOLDERS):
                with suppress(OSError):
                    (folder / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    return [*folders, Path(tempfile.gettempdir())]


def restore_scratch(spark: SparkSession, n_tasks: int) -> None:
    """Have every executor make its scratch folder again if it is gone; Spark itself never does."""

    def restore(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        executor_folders()
        for batch in batches:
            yield batch.slice(0, 0)

    spark.range(0, n_tasks, 1, n_tasks).mapInArrow(restore, "id long").collect()
