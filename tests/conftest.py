"""Fixtures shared by all tests; Spark starts only for tests that ask for it."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from session_settings import INTERPRETED, JAVA_OPTIONS, SETTINGS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Python workers must be this interpreter, wherever pytest was started from.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)

NAMES_ASKED_FOR = (
    "functions",
    "PythonUtils",
    "PythonSQLUtils",
    "SimplePythonFunction",
    "org.apache.spark.sql.functions",
    "org.apache.spark.sql.classic.SparkSession",
    "org.apache.spark.sql.execution.python.UserDefinedPythonFunction",
)

# Where set, tests run against this Spark Connect server: test_connect.py does so.
REMOTE = os.environ.get("MFSPARK_TEST_REMOTE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: begun last, one would keep a process busy while the others of
    ``-n`` have nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if REMOTE and item.get_closest_marker("classic"):
        pytest.skip("looks into Spark's JVM")


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SparkSession]":
    from pyspark.sql import SparkSession

    if REMOTE:
        from mfspark import ship

        session = SparkSession.builder.remote(REMOTE).getOrCreate()
        ship(session)
    else:
        builder = SparkSession.builder.master("local[2]").appName("mfspark-tests")
        for name, value in SETTINGS.items():
            builder = builder.config(name, value)
        session = (
            # Half of all calls to the JVM would tell it the line that an expression stands in.
            builder.config("spark.python.sql.dataFrameDebugging.enabled", "false")
            .config("spark.python.daemon.module", "mfspark.app.quiet_daemon")
            .config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse")))
            .getOrCreate()
        )
        session.sparkContext.setLogLevel("ERROR")
        remember_classes(session)
    yield session
    session.stop()


def remember_classes(session: "SparkSession") -> None:
    """Let the gateway to the JVM keep the classes that PySpark asks for by name, for every
    expression anew: each time the JVM would look for a file in some hundred archives, once for
    each package that was imported."""
    jvm = session.sparkContext._jvm
    for name in NAMES_ASKED_FOR:
        setattr(jvm, name, getattr(jvm, name))


@pytest.fixture(scope="session")
def of_short_life(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of scripts and notebooks that make a session of their own."""
    defaults = {**INTERPRETED, "spark.driver.defaultJavaOptions": JAVA_OPTIONS}
    folder = tmp_path_factory.mktemp("conf")
    lines = [f"{name} {value}\n" for name, value in defaults.items()]
    (folder / "spark-defaults.conf").write_text("".join(lines))
    return {"SPARK_CONF_DIR": str(folder)}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
