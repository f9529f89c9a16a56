"""Fixtures shared by all tests; Spark starts only for tests that ask for it."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Python workers must be this interpreter, wherever pytest was started from.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SparkSession]":
    from pyspark.sql import SparkSession

    if url := os.environ.get("MFSPARK_TEST_REMOTE"):
        # Of test_connect.py, which runs other tests against a server of its own.
        from mfspark import ship

        remote = SparkSession.builder.remote(url).getOrCreate()
        ship(remote)
        yield remote
        remote.stop()
        return
    session = (
        SparkSession.builder.master("local[2]")
        .appName("mfspark-tests")
        .config("spark.ui.enabled", "false")
        # Code that is made and compiled for a query costs more than a query over few rows.
        .config("spark.sql.codegen.wholeStage", "false")
        .config("spark.sql.codegen.factoryMode", "NO_CODEGEN")
        # Half of all calls to the JVM would tell it the line that an expression stands in.
        .config("spark.python.sql.dataFrameDebugging.enabled", "false")
        # More shuffle partitions than cores only adds task overhead to tables this small.
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.default.parallelism", "2")
        # Timestamps in expectations must not depend on the machine.
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.driver.memory", "2g")
        # A short life: the optimising compiler and parallel collection cost more than they save.
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        # What Spark remembers for its UI grows until it is a thousand queries: tests of memory
        # would depend on the tests before them.
        .config("spark.sql.ui.retainedExecutions", "10")
        .config("spark.ui.retainedJobs", "10")
        .config("spark.ui.retainedStages", "10")
        .config("spark.ui.retainedTasks", "100")
        .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
        .config("spark.python.unix.domain.socket.enabled", "true")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
