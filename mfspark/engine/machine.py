"""What a session runs on, as far as its settings tell."""

import os
import re

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mfspark.engine.plan import Machine
from mfspark.engine.workspace import setting


def machine_of(spark: SparkSession) -> Machine:
    """Cores of the cluster and of one executor, and memory of a Python worker."""

    # One JVM with all cores; local-cluster[…] has several.
    local = re.fullmatch(r"local(\[(\*|\d+).*\])?", setting(spark, "spark.master"))
    if local:
        n = {None: 1, "*": os.cpu_count() or 1}.get(local[2]) or int(local[2])
        return Machine(n, n)
    # Without Spark's context: a plain range has a partition per core.
    cores = spark.range(100_000).select(F.spark_partition_id()).distinct().count()
    task_cores = int(setting(spark, "spark.executor.cores") or "1")
    if memory := setting(spark, "spark.executor.pyspark.memory"):
        return Machine(cores, task_cores, _bytes(memory))
    if memory := setting(spark, "spark.executor.memoryOverhead"):
        return Machine(cores, task_cores, _bytes(memory) // task_cores)
    return Machine(cores, task_cores)


def is_connect(spark: SparkSession) -> bool:
    """Whether a session is one of Spark Connect."""
    return "connect" in type(spark).__module__


def _bytes(size: str) -> int:
    """Bytes of a size as Spark writes it: 512m, 8g; without a unit MiB."""
    number, unit = re.fullmatch(r"(\d+)\s*([bkmgt]?)b?", size.strip().lower()).groups()  # type: ignore[union-attr]
    shift: int = {"": 20, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}[unit]
    return int(number) << shift
