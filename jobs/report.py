"""Write report/index.html from the files that the other jobs left."""

from mfspark.app import cli, steps

if __name__ == "__main__":
    cli.main(lambda _, run: print(f"Report: {steps.report(run)}"), __doc__)
