"""Settings of Spark for tests: sessions with a short life and little data."""

# Code that is made and compiled for a query costs more than a query over few rows.
INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
SETTINGS = {
    **INTERPRETED,
    "spark.ui.enabled": "false",
    # More shuffle partitions than cores only adds task overhead to tables this small.
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    # Timestamps in expectations must not depend on the machine.
    "spark.sql.session.timeZone": "UTC",
    "spark.driver.memory": "2g",
    # Two processes of tests have two cores: a compiler that optimises, and collection in parallel,
    # would take more of them than they give.
    "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
    # What Spark remembers for its UI grows until it is a thousand queries: tests of memory would
    # depend on the tests before them.
    "spark.sql.ui.retainedExecutions": "10",
    "spark.ui.retainedJobs": "10",
    "spark.ui.retainedStages": "10",
    "spark.ui.retainedTasks": "100",
    "spark.python.unix.domain.socket.enabled": "true",
}
