"""The session of benchmarks on two cores of this machine."""

from pyspark.sql import SparkSession


def local_session(driver_memory: str, n_partitions: int) -> SparkSession:
    """A quiet session with so many partitions after a shuffle."""
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", driver_memory)
        .config("spark.sql.shuffle.partitions", str(n_partitions))
        .config("spark.python.unix.domain.socket.enabled", "true")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark
