"""Kernels compiled on all nodes of a session while something else is going on."""

import logging
import threading
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
from pyspark.sql import SparkSession

from mfspark.kernels.warm import Part, compile_once
from mfspark.spark_errors import SPARK_ERRORS

logger = logging.getLogger("mfspark")


def start_compiling(spark: SparkSession, n_cores: int, parts: tuple[Part, ...]) -> threading.Thread:
    """Have each node compile the kernels of ``parts``, unless it has them; join the thread to wait.

    Nothing depends on it: a kernel that is not there yet is compiled when it is first called.
    """
    thread = threading.Thread(target=_compile, args=(spark, n_cores, parts), daemon=True)
    thread.start()
    return thread


def _compile(spark: SparkSession, n_cores: int, parts: tuple[Part, ...]) -> None:
    # As many tasks as there are cores, so that every node gets one.
    tasks = spark.range(0, n_cores, 1, n_cores).mapInArrow(
        partial(_compile_here, parts=parts), "id long"
    )
    try:
        tasks.collect()
    except SPARK_ERRORS as error:
        logger.debug("compiling ahead failed: %s", error)


def _compile_here(
    batches: Iterator[pa.RecordBatch], parts: tuple[Part, ...]
) -> Iterator[pa.RecordBatch]:
    for part in parts:
        compile_once(part)
    for batch in batches:
        yield batch.slice(0, 0)
