"""Write report/index.html from the files that the other jobs left."""

from mfspark.app import cli, steps

if __name__ == "__main__":
    cli.main(steps.report, __doc__)
