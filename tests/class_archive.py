"""python tests/class_archive.py: an archive of the classes that Spark loads, for the tests.

With it a JVM needs two thirds of the time to start (class data sharing, Java 13 and later), and the
tests start some sixty. Where Java makes none, the file is empty and they do without.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from session_settings import CLASS_ARCHIVE, SETTINGS, WITHOUT_ARCHIVE


def main() -> None:
    """Have a JVM write the archive when it ends, after some of all that the tests do with it."""
    CLASS_ARCHIVE.unlink(missing_ok=True)
    # Beside the other one, and there when it is whole.
    unfinished = CLASS_ARCHIVE.with_suffix(".unfinished")
    settings = SETTINGS | {
        "spark.driver.extraJavaOptions": f"{WITHOUT_ARCHIVE} -Xlog:cds*=off "
        f"-XX:ArchiveClassesAtExit={unfinished}",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    with tempfile.TemporaryDirectory() as folder:
        use(spark, Path(folder))
    java = spark.sparkContext._gateway.proc
    spark.stop()
    java.stdin.close()
    java.wait()
    if unfinished.is_file():
        unfinished.rename(CLASS_ARCHIVE)
    else:
        # Nothing to be tried again.
        CLASS_ARCHIVE.touch()


def use(spark: SparkSession, folder: Path) -> None:
    """Files, joins, sums, windows, Python tasks, and what is persisted."""
    rows = spark.range(100).select("id", (F.col("id") % 7).alias("key"), F.rand(0).alias("value"))
    rows.write.csv(f"{folder}/csv", header=True)
    read = spark.read.csv(f"{folder}/csv", header=True, schema="id long, key long, value double")
    best = read.groupBy("key").agg(F.max("value"), F.collect_list("id"), F.countDistinct("id"))
    read.join(best, "key").write.parquet(f"{folder}/parquet", partitionBy="key")
    table = spark.read.parquet(f"{folder}/parquet").persist()
    table.createOrReplaceTempView("rows")
    spark.sql("SELECT *, rank() OVER (PARTITION BY key ORDER BY value) FROM rows").toArrow()
    same = table.select("id").mapInArrow(_unchanged, "id long")
    same.repartitionById(2, F.pmod("id", F.lit(2)).cast("int")).toPandas()
    spark.createDataFrame(read.toPandas()).orderBy("value").collect()
    table.unpersist()


def _unchanged(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from batches


if __name__ == "__main__":
    main()
