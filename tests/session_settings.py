"""Settings of Spark for tests: sessions with a short life and little data."""

import sys
from pathlib import Path

# Code that is made and compiled for a query costs more than a query over few rows.
INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
# A short life, and two cores for two processes of tests: a compiler that optimises, and collection
# in parallel, would take more than they give. The first compiler alone would have 48 MB for all
# code, and would begin to throw away what it needs again.
WITHOUT_ARCHIVE = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
# What class_archive.py has made. A JVM that it does not suit does without, and would say so.
CLASS_ARCHIVE = Path(sys.prefix) / "spark-classes.jsa"
WITH_ARCHIVE = f"{WITHOUT_ARCHIVE} -XX:SharedArchiveFile={CLASS_ARCHIVE} -Xlog:cds*=off"
JAVA_OPTIONS = WITH_ARCHIVE if CLASS_ARCHIVE.is_file() else WITHOUT_ARCHIVE
SETTINGS = {
    **INTERPRETED,
    "spark.ui.enabled": "false",
    # More shuffle partitions than cores only adds task overhead to tables this small.
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    # Timestamps in expectations must not depend on the machine.
    "spark.sql.session.timeZone": "UTC",
    "spark.driver.memory": "2g",
    "spark.driver.extraJavaOptions": JAVA_OPTIONS,
    # What Spark remembers for its UI grows until it is a thousand queries: tests of memory would
    # depend on the tests before them.
    "spark.sql.ui.retainedExecutions": "10",
    "spark.ui.retainedJobs": "10",
    "spark.ui.retainedStages": "10",
    "spark.ui.retainedTasks": "100",
    "spark.python.unix.domain.socket.enabled": "true",
}
