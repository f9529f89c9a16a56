"""Ingest, train, evaluate, interpret and report in one Spark session."""

from mfspark.app import cli, steps

if __name__ == "__main__":
    cli.main(steps.pipeline, __doc__)
