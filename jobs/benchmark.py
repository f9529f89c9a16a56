"""Time and memory of mfspark against pyspark.ml ALS, in turn, in one Spark application."""

from mfspark.app import benchmark, cli

if __name__ == "__main__":
    cli.main(benchmark.benchmark, __doc__)
