"""The session of benchmarks on two cores of this machine."""

from pyspark.sql import SparkSession


def local_session(driver_memory: str, n_partitions: int, **settings: str) -> SparkSession:
    """A quiet session with so many partitions after a shuffle, and other settings of Spark."""
    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", driver_memory)
        .config("spark.sql.shuffle.partitions", str(n_partitions))
        .config("spark.python.unix.domain.socket.enabled", "true")
        .config("spark.ui.showConsoleProgress", "false")
    )
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark
