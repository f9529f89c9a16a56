"""Make tables of the catalog of outputs of a run, under views that change when all are there."""

from mfspark.app import cli
from mfspark.app.publish import publish

if __name__ == "__main__":
    cli.main(publish, __doc__)
